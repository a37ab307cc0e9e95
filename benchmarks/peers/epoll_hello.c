/* The floor: the least a single-threaded HTTP server on epoll can do in C.
 *
 * It finds the end of each request head, answers it with a fixed response and
 * parses nothing else, so the distance to it is what a server pays for being one.
 * Keep-alive and pipelining work; requests with a body do not.
 *
 * Each descriptor is registered once, edge-triggered, for both directions. A read
 * that returns fewer bytes than asked for has drained the socket.
 *
 * usage: epoll_hello HOST:PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char RESPONSE[] = "HTTP/1.1 200 OK\r\n"
                               "Content-Type: text/plain\r\n"
                               "Content-Length: 12\r\n"
                               "\r\n"
                               "Hello, World";

enum {
    RESPONSE_LEN = sizeof(RESPONSE) - 1,
    BATCH = 64,        /* responses that one send can carry */
    HEAD_MAX = 8192,   /* bytes; a longer request head closes the connection */
    EVENTS = 256,
};

struct conn {
    int fd;
    size_t used;       /* bytes of an unfinished request head in buf */
    size_t owed;       /* bytes of response not yet sent */
    char buf[HEAD_MAX];
};

/* RESPONSE, BATCH times in a row: any run of pending responses is a slice of it. */
static char responses[BATCH * RESPONSE_LEN];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Sends what is owed, as far as the socket takes it. False: the peer is gone. */
static bool conn_flush(struct conn *c)
{
    while (c->owed > 0) {
        size_t offset = (RESPONSE_LEN - c->owed % RESPONSE_LEN) % RESPONSE_LEN;
        size_t len = c->owed;
        if (len > sizeof responses - offset)
            len = sizeof responses - offset;
        ssize_t n = send(c->fd, responses + offset, len, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        c->owed -= (size_t)n;
    }
    return true;
}

/* Counts the complete heads in buf and keeps the unfinished rest at its start. */
static void conn_parse(struct conn *c)
{
    char *start = c->buf, *end = c->buf + c->used, *hit;
    while ((hit = memmem(start, (size_t)(end - start), "\r\n\r\n", 4)) != NULL) {
        c->owed += RESPONSE_LEN;
        start = hit + 4;
    }
    c->used = (size_t)(end - start);
    if (c->used > 0 && start != c->buf)
        memmove(c->buf, start, c->used);
}

/* Reads until the socket is drained and answers. False: close the connection. */
static bool conn_ready(struct conn *c, uint32_t events)
{
    if (events & (EPOLLERR | EPOLLHUP) || !conn_flush(c))
        return false;
    if (!(events & EPOLLIN))
        return true;
    for (;;) {
        size_t room = HEAD_MAX - c->used;
        if (room == 0)
            return false;
        ssize_t n = recv(c->fd, c->buf + c->used, room, 0);
        if (n == 0)
            return false;
        if (n < 0)
            return errno == EAGAIN;
        c->used += (size_t)n;
        conn_parse(c);
        if (!conn_flush(c))
            return false;
        if ((size_t)n < room && !(events & EPOLLRDHUP))
            return true;
    }
}

static void watch(int epfd, int fd, uint32_t events, void *data)
{
    struct epoll_event ev = {.events = events, .data.ptr = data};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
        die("epoll_ctl");
}

static void accept_all(int epfd, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct conn *c = malloc(sizeof *c);
        if (c == NULL)
            die("malloc");
        c->fd = fd;
        c->used = c->owed = 0;
        watch(epfd, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, c);
    }
}

static int listen_on(const char *address)
{
    char host[64];
    unsigned short port;
    struct sockaddr_in sin = {.sin_family = AF_INET};
    if (sscanf(address, "%63[^:]:%hu", host, &port) != 2 ||
        inet_pton(AF_INET, host, &sin.sin_addr) != 1) {
        fprintf(stderr, "bad address: %s\n", address);
        exit(2);
    }
    sin.sin_port = htons(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&sin, sizeof sin) < 0)
        die("bind");
    if (listen(fd, SOMAXCONN) < 0)
        die("listen");
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s HOST:PORT\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < BATCH; i++)
        memcpy(responses + i * RESPONSE_LEN, RESPONSE, RESPONSE_LEN);

    int listener = listen_on(argv[1]);
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    if (epfd < 0)
        die("epoll_create1");
    watch(epfd, listener, EPOLLIN, NULL);

    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(epfd, events, EVENTS, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c == NULL) {
                accept_all(epfd, listener);
            } else if (!conn_ready(c, events[i].events)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
