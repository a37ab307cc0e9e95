// Dispatches by Go's ServeMux: mux_go ROUTES PATH COUNT prints ns for each.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

// patterns are those of mux_routes.py.
func patterns(n int) []string {
	out := []string{"/users/{id}", "/users"}
	shapes := []string{"/{a}", "", "/{a}/details", "/{a}/parts/{b}"}
	for i := 0; i < n; i++ {
		out = append(out, fmt.Sprintf("/resource%d%s", i/len(shapes), shapes[i%len(shapes)]))
	}
	return out[:n]
}

type nothing struct{}

func (nothing) Header() http.Header           { return nil }
func (nothing) Write(p []byte) (int, error)   { return len(p), nil }
func (nothing) WriteHeader(int)               {}

func main() {
	routes, _ := strconv.Atoi(os.Args[1])
	count, _ := strconv.Atoi(os.Args[3])
	mux := http.NewServeMux()
	for _, pattern := range patterns(routes) {
		mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
			r.PathValue("id")
		})
	}
	r, err := http.NewRequest("GET", "http://test"+os.Args[2], nil)
	if err != nil {
		panic(err)
	}
	best := time.Hour
	for i := 0; i < 5; i++ {
		began := time.Now()
		for j := 0; j < count; j++ {
			mux.ServeHTTP(nothing{}, r)
		}
		best = min(best, time.Since(began))
	}
	fmt.Println(float64(best.Nanoseconds()) / float64(count))
}
