// The rows of http_table.py on Go's net/http.
//
// usage: work_go HOST:PORT
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

var large = make([]byte, 65536)

func plain(w http.ResponseWriter, s string) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, s)
}

func hello(w http.ResponseWriter, r *http.Request) {
	plain(w, "Hello, World")
}

func browser(w http.ResponseWriter, r *http.Request) {
	h := r.Header
	if h.Get("User-Agent") != "" && h.Get("Accept") != "" && h.Get("Cookie") != "" {
		plain(w, "Hello, World")
	} else {
		plain(w, "?")
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	var v any
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	out, _ := json.Marshal(v)
	w.Header().Set("Content-Type", "application/json")
	w.Write(out)
}

func user(w http.ResponseWriter, r *http.Request) {
	plain(w, r.PathValue("id"))
}

func sleep(w http.ResponseWriter, r *http.Request) {
	time.Sleep(time.Millisecond)
	plain(w, "Hello, World")
}

func sendLarge(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", "65536")
	w.Write(large)
}

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", hello)
	mux.HandleFunc("GET /browser", browser)
	mux.HandleFunc("POST /json", echo)
	mux.HandleFunc("GET /users/{id}", user)
	mux.HandleFunc("GET /sleep", sleep)
	mux.HandleFunc("GET /large", sendLarge)
	for i := range 95 {
		mux.HandleFunc(fmt.Sprintf("GET /other%d/{id}", i), user)
	}
	server := &http.Server{
		Addr:              os.Args[1],
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       120 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
