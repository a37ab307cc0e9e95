// Scheduler costs of Go.
//
// usage: sched_go MEASURE COUNT REPEATS
//
// prints one JSON line, as the Python programs beside it do.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var done atomic.Int64

//go:noinline
func work() { done.Add(1) }

// resident is the resident memory of this process in bytes.
func resident() float64 {
	file, err := os.Open("/proc/self/smaps_rollup")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); fields[0] == "Rss:" {
			kib, _ := strconv.Atoi(fields[1])
			return float64(kib) * 1024
		}
	}
	log.Fatal("no Rss in /proc/self/smaps_rollup")
	return 0
}

func nsEach(start time.Time, count int) float64 {
	return float64(time.Since(start).Nanoseconds()) / float64(count)
}

func call(count int) float64 {
	start := time.Now()
	for range count {
		work()
	}
	return nsEach(start, count)
}

func spawn(count int) float64 {
	done.Store(0)
	start := time.Now()
	for range count {
		go work()
	}
	for done.Load() < int64(count) {
		runtime.Gosched()
	}
	return nsEach(start, count)
}

func yieldAmong(goroutines, count int) float64 {
	turns := count / goroutines
	var wg sync.WaitGroup
	start := time.Now()
	for range goroutines {
		wg.Go(func() {
			for range turns {
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	return nsEach(start, turns*goroutines)
}

func channel(count int) float64 {
	there, back := make(chan int), make(chan int)
	var wg sync.WaitGroup
	start := time.Now()
	wg.Go(func() {
		for range count {
			back <- <-there
		}
	})
	wg.Go(func() {
		for i := range count {
			there <- i
			<-back
		}
	})
	wg.Wait()
	return nsEach(start, 2*count)
}

func buffered(count int) float64 {
	ch := make(chan int, 128)
	var wg sync.WaitGroup
	start := time.Now()
	wg.Go(func() {
		for range count {
			<-ch
		}
	})
	wg.Go(func() {
		for i := range count {
			ch <- i
		}
	})
	wg.Wait()
	return nsEach(start, count)
}

func select4(count int) float64 {
	var chans [4]chan int
	for i := range chans {
		chans[i] = make(chan int, 1)
	}
	a, b, c, d := chans[0], chans[1], chans[2], chans[3]
	start := time.Now()
	for i := range count {
		chans[i%4] <- i
		select {
		case <-a:
		case <-b:
		case <-c:
		case <-d:
		}
	}
	return nsEach(start, count)
}

func mutex(count int) float64 {
	var mutex sync.Mutex
	start := time.Now()
	for range count {
		mutex.Lock()
		mutex.Unlock()
	}
	return nsEach(start, count)
}

func timer(count int) float64 {
	timers := make([]*time.Timer, count)
	start := time.Now()
	for i := range timers {
		timers[i] = time.AfterFunc(time.Hour, work)
	}
	for _, timer := range timers {
		timer.Stop()
	}
	return nsEach(start, count)
}

func timers(count int) float64 {
	timers := make([]*time.Timer, count)
	for i := range timers {
		timers[i] = nil // its pages are there before anything is measured
	}
	before := resident()
	for i := range timers {
		timers[i] = time.AfterFunc(time.Hour, work)
	}
	each := (resident() - before) / float64(count)
	runtime.KeepAlive(timers)
	return each
}

func sleepers(count int) float64 {
	var wg sync.WaitGroup
	start := time.Now()
	for range count {
		wg.Go(func() { time.Sleep(time.Second) })
	}
	wg.Wait()
	return float64((time.Since(start) - time.Second).Microseconds()) / 1e3
}

func sleeping(count int) float64 {
	var started atomic.Int64
	before := resident()
	for range count {
		go func() {
			started.Add(1)
			time.Sleep(time.Hour)
		}()
	}
	for started.Load() < int64(count) {
		runtime.Gosched()
	}
	return (resident() - before) / float64(count)
}

func parked(count int) float64 {
	gate := make(chan struct{})
	var started atomic.Int64
	var wg sync.WaitGroup
	before := resident()
	for range count {
		wg.Go(func() {
			started.Add(1)
			<-gate
		})
	}
	for started.Load() < int64(count) {
		runtime.Gosched()
	}
	each := (resident() - before) / float64(count)
	for range count {
		gate <- struct{}{}
	}
	wg.Wait()
	return each
}

var measures = map[string]func(int) float64{
	"call":      call,
	"spawn":     spawn,
	"yield2":    func(count int) float64 { return yieldAmong(2, count) },
	"yield1000": func(count int) float64 { return yieldAmong(1000, count) },
	"chan":      channel,
	"buffered":  buffered,
	"select4":   select4,
	"mutex":     mutex,
	"timer":     timer,
	"timers":    timers,
	"sleepers":  sleepers,
	"sleeping":  sleeping,
	"parked":    parked,
}

func main() {
	if len(os.Args) != 4 || measures[os.Args[1]] == nil {
		log.Fatal("usage: sched_go MEASURE COUNT REPEATS")
	}
	count, _ := strconv.Atoi(os.Args[2])
	repeats, _ := strconv.Atoi(os.Args[3])
	samples := make([]float64, repeats)
	for i := range samples {
		samples[i] = measures[os.Args[1]](count)
	}
	line, err := json.Marshal(map[string]any{"measure": os.Args[1], "samples": samples})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}
