/* The load for connections that come and go: each is made, has one message echoed (of 0 bytes:
 * none), and is ended; it counts once the server has closed its end, too.
 *
 * One thread, epoll; so many connections at a time.  Their addresses on this end rotate, for
 * each of them stays in TIME_WAIT.  It prints the connections and the seconds they took.
 *
 * usage: churn_load HOST:PORT CONNECTIONS BYTES SECONDS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { EVENTS = 256, MAX_BYTES = 4096, ADDRESSES = 64 };

struct conn {
    int fd;
    size_t got;
    int sent;                   /* the message */
};

static char message[MAX_BYTES], buffer[MAX_BYTES];
static size_t size;
static int epfd;
static struct sockaddr_in server;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void begin(struct conn *c)
{
    static unsigned turn;
    int one = 1;
    struct sockaddr_in local = {.sin_family = AF_INET};
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn++ % ADDRESSES);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    *c = (struct conn){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (bind(c->fd, (struct sockaddr *)&local, sizeof(local)) < 0)
        die("bind");
    if (connect(c->fd, (struct sockaddr *)&server, sizeof(server)) < 0 && errno != EINPROGRESS)
        die("connect");
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
        die("epoll_ctl");
}

/* Has it come to its end? */
static int go_on(struct conn *c)
{
    if (!c->sent) {
        ssize_t n = size ? send(c->fd, message, size, MSG_NOSIGNAL) : 0;
        if (n < 0 && errno == EAGAIN)       /* not connected yet */
            return 0;
        if (n != (ssize_t)size)
            die("send");
        c->sent = 1;
        if (size == 0 && shutdown(c->fd, SHUT_WR) < 0)
            die("shutdown");
    }
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof(buffer), 0);
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0)
            die("recv");
        if (n == 0 && c->got == size)
            return 1;
        if (n == 0 || c->got + (size_t)n > size || memcmp(buffer, message + c->got, (size_t)n)) {
            fprintf(stderr, "what came back is not what was sent\n");
            exit(1);
        }
        c->got += (size_t)n;
        if (c->got == size && shutdown(c->fd, SHUT_WR) < 0)
            die("shutdown");
    }
}

int main(int argc, char **argv)
{
    char *colon = argc == 5 ? strrchr(argv[1], ':') : NULL;
    if (colon == NULL) {
        fprintf(stderr, "usage: churn_load HOST:PORT CONNECTIONS BYTES SECONDS\n");
        return 2;
    }
    *colon = '\0';
    server = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(colon + 1))};
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    int count = atoi(argv[2]);
    size = (size_t)atoi(argv[3]);
    epfd = epoll_create1(0);
    if (count < 1 || size > MAX_BYTES)
        return 2;
    memset(message, 'x', sizeof(message));
    struct conn *conns = calloc((size_t)count, sizeof(*conns));
    double start = now(), end = start + atof(argv[4]);
    for (int i = 0; i < count; i++)
        begin(&conns[i]);
    long done = 0;
    while (count > 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epfd, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            /* Shutting down before it is connected would end it. */
            if (!c->sent && !(events[i].events & EPOLLOUT))
                continue;
            if (!go_on(c))
                continue;
            done++;
            close(c->fd);
            if (now() < end)
                begin(c);
            else
                count--;
        }
    }
    printf("%ld %.6f\n", done, now() - start);
    return 0;
}
