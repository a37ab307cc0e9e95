/* rt_http1_sniff.h - the content type of a body, from its first bytes. */
#ifndef RT_HTTP1_SNIFF_H
#define RT_HTTP1_SNIFF_H

#include <stddef.h>

#define RT_HTTP1_SNIFF_LEN 512          /* bytes it looks at, at most */

extern const char rt_http1_text[];      /* "text/plain; charset=utf-8" */

/* Never fails: text, or application/octet-stream, where nothing else fits.  The result is
   static; for text it is rt_http1_text itself. */
const char *rt_http1_sniff(const char *data, size_t n);

#endif
