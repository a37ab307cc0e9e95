/* greenlet_api.h - greenlet's C API for all files of the extension.
 *
 * greenlet.h gives each file that includes it a static table pointer; here all
 * share one, filled in by the module's start-up.
 */
#ifndef GREENLET_API_H
#define GREENLET_API_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-variable"
#define _PyGreenlet_API py_greenlet_api_unused
#include <greenlet.h>
#undef _PyGreenlet_API
#pragma GCC diagnostic pop

extern void **_PyGreenlet_API;

#endif
