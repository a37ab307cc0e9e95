"""Groups of goroutines that work on one task, as in Go's golang.org/x/sync/errgroup.

    from runtime import errgroup

    group = errgroup.Group()
    for url in urls:
        group.go(fetch, url)
    group.wait()        # raises the first error

`runtime.Group` is the richer form: a with block that also cancels the others.
"""

from runtime._errgroup import Group, with_context

__all__ = ["Group", "with_context"]
