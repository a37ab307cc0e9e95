// The hello server on Go's net/http.
//
// usage: hello_go HOST:PORT
package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, "Hello, World")
}

func main() {
	http.HandleFunc("/", hello)
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
