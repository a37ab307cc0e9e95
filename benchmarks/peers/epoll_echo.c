/* The floor: the least a single-threaded echo server on epoll can do in C.
 *
 * Edge-triggered; a read that returns fewer bytes than asked for has drained the socket.
 * It expects that what it echoes fits the socket's buffer.
 *
 * usage: epoll_echo HOST:PORT
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
#include <unistd.h>

enum { EVENTS = 256 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void echo(int fd)
{
    static char buf[4096];
    ssize_t n;
    do {
        n = recv(fd, buf, sizeof(buf), 0);
        if (n == 0 || (n < 0 && errno != EAGAIN) || (n > 0 && send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n)) {
            close(fd);
            return;
        }
    } while (n == (ssize_t)sizeof(buf));
}

int main(int argc, char **argv)
{
    char *colon = argc == 2 ? strrchr(argv[1], ':') : NULL;
    if (colon == NULL) {
        fprintf(stderr, "usage: epoll_echo HOST:PORT\n");
        return 2;
    }
    *colon = '\0';
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    inet_pton(AF_INET, argv[1], &addr.sin_addr);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epfd = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 1024) < 0)
        die("listen");
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev);
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epfd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                echo(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                ev = (struct epoll_event){.events = EPOLLIN | EPOLLET | EPOLLRDHUP, .data.fd = fd};
                epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
            }
        }
    }
}
