/* The floor: streams over TCP, as stream_gosched.py, by plain blocking calls, one connection
 * after another.
 *
 * usage: blocking_stream HOST:PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* All of it? */
static int send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent < 0)
            return 0;
        p += sent;
        n -= (size_t)sent;
    }
    return 1;
}

int main(int argc, char **argv)
{
    char *colon = argc == 2 ? strrchr(argv[1], ':') : NULL;
    if (colon == NULL) {
        fprintf(stderr, "usage: blocking_stream HOST:PORT\n");
        return 2;
    }
    *colon = '\0';
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    inet_pton(AF_INET, argv[1], &addr.sin_addr);
    int one = 1, fd, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 1024) < 0)
        die("listen");
    char *buffer = malloc(MIB), first;
    if (buffer == NULL)
        die("malloc");
    memset(buffer, 1, MIB);
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        if (recv(fd, &first, 1, 0) == 1) {
            if (first == 'w')
                while (recv(fd, buffer, MIB, 0) > 0)
                    ;
            else
                while (send_all(fd, buffer, MIB))
                    ;
        }
        close(fd);
    }
    die("accept");
}
