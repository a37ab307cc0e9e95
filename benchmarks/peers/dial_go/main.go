// Connections made and closed by Go's net package, one after another.
//
// usage: dial_go HOST:PORT SECONDS
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

const warmUp, batch = 200, 100

func connect() {
	conn, err := net.Dial("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()
}

func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func main() {
	seconds, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		log.Fatal(err)
	}
	for i := 0; i < warmUp; i++ {
		connect()
	}
	done := 0
	start, used := time.Now(), cpu()
	for time.Since(start).Seconds() < seconds {
		for i := 0; i < batch; i++ {
			connect()
		}
		done += batch
	}
	fmt.Println(done, time.Since(start).Seconds(), (cpu() - used).Seconds())
}
