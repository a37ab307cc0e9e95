// The file server of Go's net/http.
//
// usage: files_go ROOT HOST:PORT
package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	http.Handle("/", http.FileServer(http.Dir(os.Args[1])))
	log.Fatal(http.ListenAndServe(os.Args[2], nil))
}
