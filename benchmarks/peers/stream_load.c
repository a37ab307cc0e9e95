/* The load for the streaming servers: one connection that writes or reads as fast as it can, by
 * plain blocking calls of 1 MiB.
 *
 * What is written counts once the server has read all of it and hung up.  It prints the MiB
 * and the seconds they took.
 *
 * usage: stream_load HOST:PORT w|r SECONDS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

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

int main(int argc, char **argv)
{
    char *colon = argc == 4 ? strrchr(argv[1], ':') : NULL;
    if (colon == NULL || (strcmp(argv[2], "w") != 0 && strcmp(argv[2], "r") != 0)) {
        fprintf(stderr, "usage: stream_load HOST:PORT w|r SECONDS\n");
        return 2;
    }
    *colon = '\0';
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    inet_pton(AF_INET, argv[1], &addr.sin_addr);
    int writes = argv[2][0] == 'w', fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        die("connect");
    char *buffer = malloc(MIB);
    if (buffer == NULL)
        die("malloc");
    memset(buffer, 1, MIB);
    if (send(fd, argv[2], 1, 0) != 1)
        die("send");
    double start = now(), end = start + atof(argv[3]), total = 0;
    while (now() < end) {
        ssize_t n = writes ? send(fd, buffer, MIB, MSG_NOSIGNAL) : recv(fd, buffer, MIB, 0);
        if (n < 0)
            die(argv[2]);
        if (n == 0) {
            fprintf(stderr, "the server has hung up\n");
            return 1;
        }
        total += (double)n;
    }
    if (writes) {
        shutdown(fd, SHUT_WR);
        if (recv(fd, buffer, MIB, 0) != 0)
            die("the end");
    }
    printf("%.3f %.6f\n", total / MIB, now() - start);
    return 0;
}
