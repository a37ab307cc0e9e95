/* The load for the echo servers: connections that each send a message, wait until it has come
 * back whole, and send the next one.
 *
 * One thread, epoll. It prints the round trips and the seconds they took; what comes back
 * is checked.
 *
 * usage: echo_load HOST:PORT CONNECTIONS BYTES SECONDS
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

enum { EVENTS = 256, MAX_BYTES = 65536 };

struct conn {
    int fd;
    size_t got;
};

static char message[MAX_BYTES], buffer[MAX_BYTES];
static size_t size;

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

static void send_message(struct conn *c)
{
    c->got = 0;
    if (send(c->fd, message, size, MSG_NOSIGNAL) != (ssize_t)size)
        die("send");
}

/* One more round trip? */
static int receive(struct conn *c)
{
    ssize_t n = recv(c->fd, buffer, size - c->got, 0);
    if (n <= 0)
        die(n == 0 ? "the server has hung up" : "recv");
    if (memcmp(buffer, message + c->got, (size_t)n) != 0)
        die("what came back is not what was sent");
    c->got += (size_t)n;
    return c->got == size;
}

int main(int argc, char **argv)
{
    char *colon = argc == 5 ? strrchr(argv[1], ':') : NULL;
    if (colon == NULL) {
        fprintf(stderr, "usage: echo_load HOST:PORT CONNECTIONS BYTES SECONDS\n");
        return 2;
    }
    *colon = '\0';
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    inet_pton(AF_INET, argv[1], &addr.sin_addr);
    int count = atoi(argv[2]), one = 1, epfd = epoll_create1(0);
    size = (size_t)atoi(argv[3]);
    if (count < 1 || size < 1 || size > MAX_BYTES)
        return 2;
    for (size_t i = 0; i < size; i++)
        message[i] = (char)('a' + i % 26);
    struct conn *conns = calloc((size_t)count, sizeof(*conns));
    for (int i = 0; i < count; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &conns[i]};
        conns[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(conns[i].fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
            die("connect");
        setsockopt(conns[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        epoll_ctl(epfd, EPOLL_CTL_ADD, conns[i].fd, &ev);
    }
    double start = now(), end = start + atof(argv[4]), t;
    for (int i = 0; i < count; i++)
        send_message(&conns[i]);
    long trips = 0;
    while ((t = now()) < end) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epfd, events, EVENTS, 100);
        for (int i = 0; i < n; i++)
            if (receive(events[i].data.ptr)) {
                trips++;
                send_message(events[i].data.ptr);
            }
    }
    for (int i = 0; i < count; i++)         /* a reset would cost the server something */
        while (conns[i].got < size)
            receive(&conns[i]);
    printf("%ld %.6f\n", trips, t - start);
    return 0;
}
