/* test_http1_corpus.c - the seeds of the fuzzer (tests/corpus/http1), checked as it does.
 *
 * What the fuzzer has found once must not wait for the next time it runs.
 */
#include "fuzz_http1.c"

#include "rt_test.h"

#include <dirent.h>

static void
test_corpus_holds(void)
{
    char path[4096];
    const char *slash = strrchr(__FILE__, '/');
    const int dir = slash ? (int)(slash - __FILE__) : 0;
    unsigned files = 0;

    snprintf(path, sizeof path, "%.*s/../corpus/http1", dir, slash ? __FILE__ : ".");

    DIR *d = opendir(path);
    const size_t n = strlen(path);

    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        static uint8_t data[INPUT_MAX];

        if (e->d_name[0] == '.')
            continue;
        snprintf(path + n, sizeof path - n, "/%s", e->d_name);

        FILE *f = fopen(path, "rb");

        CHECK(f != NULL);
        const size_t len = fread(data, 1, sizeof data, f);

        CHECK_EQ(fclose(f), 0);
        fprintf(stderr, "%s\n", e->d_name);     /* the last one is at fault */
        LLVMFuzzerTestOneInput(data, len);
        files++;
    }
    closedir(d);
    CHECK(files > 50);
}

int
main(void)
{
    RUN(test_corpus_holds);
    return 0;
}
