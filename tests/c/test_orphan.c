/* test_orphan.c - a process that must not outlive its parent (rt_orphan.h). */
#include "rt_orphan.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>

#include "rt_test.h"

static int life, ready;         /* the parent's ends of two pipes */

/* A child that watches, and stops at nothing else; it heeds SIGTERM or it does not. */
static pid_t
child(bool heeds)
{
    int alive[2], begun[2];
    CHECK(pipe(alive) == 0 && pipe(begun) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(alive[1]);
        close(begun[0]);
        if (!heeds)
            signal(SIGTERM, SIG_IGN);
        rt_orphan_set_grace(1000000);
        CHECK_EQ(rt_orphan_watch(alive[0]), 0);
        CHECK(write(begun[1], "", 1) == 1);
        for (;;)
            pause();
    }
    close(alive[0]);
    close(begun[1]);
    life = alive[1];
    ready = begun[0];
    char byte;
    CHECK(read(ready, &byte, 1) == 1);
    return pid;
}

/* What has ended it. */
static int
end_of(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    close(ready);
    CHECK(WIFSIGNALED(status));
    return WTERMSIG(status);
}

static void
child_lives_while_the_pipe_is_open(void)
{
    pid_t pid = child(true);
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(end_of(pid), SIGKILL);
    close(life);
}

static void
child_is_terminated_when_the_pipe_ends(void)
{
    pid_t pid = child(true);
    close(life);
    CHECK_EQ(end_of(pid), SIGTERM);
}

static void
child_that_goes_on_is_killed(void)
{
    pid_t pid = child(false);
    close(life);
    CHECK_EQ(end_of(pid), SIGKILL);
}

int
main(void)
{
    RUN(child_lives_while_the_pipe_is_open);
    RUN(child_is_terminated_when_the_pipe_ends);
    RUN(child_that_goes_on_is_killed);
    return 0;
}
