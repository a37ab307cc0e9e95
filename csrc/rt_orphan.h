/* rt_orphan.h - a process that must not outlive its parent.
 *
 * The parent holds the writing end of a pipe, and nobody else does.  A thread of the child waits
 * for the end of that pipe, which comes however the parent has died, and then ends the child:
 * by SIGTERM, and after a while by SIGKILL.  A thread in C, because the child may be stuck with
 * the GIL held; a pipe and not PR_SET_PDEATHSIG, because one signal cannot be followed by another,
 * and because only Linux has that.
 */
#ifndef RT_ORPHAN_H
#define RT_ORPHAN_H

#include <stdint.h>

/* Start the thread, once in a process.  It owns fd, the reading end, from now on; 0 or -errno. */
int rt_orphan_watch(int fd);

/* How long there is between the two signals.  Any thread, at any time. */
void rt_orphan_set_grace(int64_t ns);

#endif
