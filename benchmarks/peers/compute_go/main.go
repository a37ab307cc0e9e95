// compute_gosched.py's handlers on Go's net/http.
//
// usage: compute_go HOST:PORT | calibrate MICROSECONDS
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

// The compiler must not find a formula for the sum.
//
//go:noinline
func turn(n int) int {
	total := 0
	for i := range n {
		total += i
	}
	return total
}

func calibrate(seconds float64) int {
	const n = 1000000
	best := time.Duration(1 << 62)
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		start := time.Now()
		turn(n)
		best = min(best, time.Since(start))
	}
	return max(1, int(n*seconds/best.Seconds()))
}

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, "Hello, World")
}

func compute(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, strconv.Itoa(turn(n)))
}

func main() {
	if os.Args[1] == "calibrate" {
		micros, err := strconv.ParseFloat(os.Args[2], 64)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(calibrate(micros * 1e-6))
		return
	}
	http.HandleFunc("GET /{$}", hello)
	http.HandleFunc("GET /{n}", compute)
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
