/* main.c - sched_model's command line.
 *
 *   sched_model              all scenarios but the large ones
 *   sched_model --large      the large ones
 *   sched_model NAME         one of them
 *   sched_model --list       the scenarios
 *   sched_model --mutants    the mistakes that can be planted
 *   sched_model --mutant M   all scenarios with mistake M: prints the way to the first failure
 *   sched_model --mutant M NAME    one of them
 *
 * Ends with 0 if all is well, 1 after a failure, 2 where it cannot tell.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"

int
main(int argc, char **argv)
{
    const char *only = NULL;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (const scenario *sn = scenarios; sn->name != NULL; sn++)
            printf("%s\n", sn->name);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--mutants") == 0) {
        for (int i = SOUND + 1; i < MUTANTS; i++)
            printf("%s\n", mutants[i]);
        return 0;
    }
    if (argc >= 3 && strcmp(argv[1], "--mutant") == 0) {
        for (int i = SOUND + 1; i < MUTANTS; i++)
            if (strcmp(argv[2], mutants[i]) == 0)
                planted = (mutant)i;
        if (planted == SOUND) {
            fprintf(stderr, "sched_model: no mistake %s\n", argv[2]);
            return 2;
        }
        only = argc > 3 ? argv[3] : NULL;
    }
    else if (argc == 2)
        only = argv[1];
    bool found = false;
    const scenario *from = scenarios;
    if (only != NULL && strcmp(only, "--large") == 0) {
        only = NULL;
        from = scenarios_large;
    }
    for (const scenario *sn = from; sn->name != NULL; sn++) {
        if (only != NULL && strcmp(only, sn->name) != 0)
            continue;
        found = true;
        if (!check_scenario(sn, planted != SOUND))
            return 1;
    }
    if (!found) {
        fprintf(stderr, "sched_model: no scenario %s\n", only);
        return 2;
    }
    return 0;
}
