// Streams over TCP on Go's net package, as stream_gosched.py: one goroutine for each connection.
//
// usage: stream_go HOST:PORT
package main

import (
	"bytes"
	"log"
	"net"
	"os"
)

const mib = 1 << 20

func stream(conn net.Conn) {
	defer conn.Close()
	var first [1]byte
	if _, err := conn.Read(first[:]); err != nil {
		return
	}
	buf := bytes.Repeat([]byte("x"), mib) // pages of its own, not the system's one of zeros
	transfer := conn.Write
	if first[0] == 'w' {
		transfer = conn.Read
	}
	for {
		if _, err := transfer(buf); err != nil {
			return
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go stream(conn)
	}
}
