/* py_http_mux_table.c - the routes of a ServeMux, ready for lookups.
 *
 * A table is a tree with one level for each segment of a path, built from the one in
 * http/tree.py, which says why its order finds the most specific pattern.  Nothing in it
 * ever changes, so searching takes no lock.
 *
 * The lookup finds requests that simply match.  Whatever needs a reply of the mux's own
 * (a redirect, 404, 405), or is out of the ordinary (an unclean path, bytes outside ASCII,
 * CONNECT, very many segments), it leaves to the full rules, in http/mux.py.  So it is
 * always right to give up here, and anything that is not plain does.
 *
 * Rejected: caches by path (a client chooses the keys); one flat table by the whole path
 * (wildcards); a radix tree by bytes (more nodes to visit than there are segments, and
 * escapes would have to be decoded first).
 */
#include "py_http_mux.h"

#define MAX_SEGS 64             /* in a path; more take the slow way */
#define MAX_DECODED 512         /* bytes of its segments with escapes, decoded */
#define MAX_HOST 255

/* ---- tables ---- */

typedef struct mux_node mux_node;

/* What is registered under one name: a segment, a host. */
typedef struct {
    uint32_t hash, len;
    char *text;                 /* owned, NULL: the place is free */
    mux_node *child;            /* owned */
} mux_edge;

/* A hash table with open addressing, never more than half full.  Its keys are the
   program's, so no client can make it slow. */
typedef struct {
    mux_edge *edges;            /* owned; NULL while it is empty */
    uint32_t mask;
} mux_edges;

typedef struct {
    uint32_t len;
    char *text;                 /* owned */
    http_route *route;          /* borrowed from the table's list */
} mux_method;

/* The routes of one path, by method. */
typedef struct {
    http_route *any;            /* borrowed */
    mux_method *methods;        /* owned */
    uint32_t nmethods;
} mux_leaf;

struct mux_node {
    mux_edges literals;         /* by decoded text; "" is {$} */
    mux_node *wild;             /* owned */
    mux_leaf *leaf, *rest;      /* owned; if no segments remain, and whatever remains */
};

struct http_mux_table {
    PyObject_HEAD
    mux_node *root;             /* owned: patterns for every host */
    mux_edges hosts;            /* roots of the patterns for one, in lower case */
    http_route **routes;        /* owned array of owned references */
    uint32_t nroutes, cap;
};

#define HASH_INIT 2166136261u
#define HASH_ADD(h, ch) (((h) ^ (unsigned char)(ch)) * 16777619u)

static uint32_t
hash_bytes(const char *s, uint32_t n)
{
    uint32_t h = HASH_INIT;
    for (uint32_t i = 0; i < n; i++)
        h = HASH_ADD(h, s[i]);
    return h;
}

static inline mux_node *
edges_find(const mux_edges *t, const char *s, uint32_t n, uint32_t hash)
{
    if (t->edges == NULL)
        return NULL;
    for (uint32_t i = hash;; i++) {
        const mux_edge *e = &t->edges[i & t->mask];
        if (e->text == NULL)
            return NULL;
        if (e->hash == hash && e->len == n && memcmp(e->text, s, n) == 0)
            return e->child;
    }
}

static void free_node(mux_node *node);

static void
free_edges(mux_edges *t)
{
    for (uint32_t i = 0; t->edges != NULL && i <= t->mask; i++) {
        PyMem_Free(t->edges[i].text);
        free_node(t->edges[i].child);
    }
    PyMem_Free(t->edges);
    t->edges = NULL;
}

static void
free_leaf(mux_leaf *leaf)
{
    if (leaf == NULL)
        return;
    for (uint32_t i = 0; i < leaf->nmethods; i++)
        PyMem_Free(leaf->methods[i].text);
    PyMem_Free(leaf->methods);
    PyMem_Free(leaf);
}

/* Patterns have a limited number of segments, so this does not go deep. */
static void
free_node(mux_node *node)
{
    if (node == NULL)
        return;
    free_edges(&node->literals);
    free_node(node->wild);
    free_leaf(node->leaf);
    free_leaf(node->rest);
    PyMem_Free(node);
}

static int
table_traverse(http_mux_table *t, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(t));
    for (uint32_t i = 0; i < t->nroutes; i++)
        Py_VISIT((PyObject *)t->routes[i]);
    return 0;
}

static void
table_dealloc(http_mux_table *t)
{
    PyTypeObject *type = Py_TYPE(t);
    PyObject_GC_UnTrack(t);
    free_node(t->root);
    free_edges(&t->hosts);
    for (uint32_t i = 0; i < t->nroutes; i++)
        Py_DECREF(t->routes[i]);
    PyMem_Free(t->routes);
    PyObject_GC_Del(t);
    Py_DECREF(type);
}

/* ---- building one ---- */

static void *
no_memory(void)
{
    PyErr_NoMemory();
    return NULL;
}

/* A copy of a str in UTF-8. */
static char *
copy_text(PyObject *text, uint32_t *len)
{
    Py_ssize_t n;
    const char *s = PyUnicode_AsUTF8AndSize(text, &n);
    if (s == NULL)
        return NULL;
    char *copy = PyMem_Malloc((size_t)n + 1);
    if (copy == NULL)
        return no_memory();
    memcpy(copy, s, (size_t)n);
    *len = (uint32_t)n;
    return copy;
}

static http_route *
add_route(http_mux_table *t, PyObject *route)
{
    if (t->nroutes == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 16;
        http_route **routes = PyMem_Realloc(t->routes, cap * sizeof(*routes));
        if (routes == NULL)
            return no_memory();
        t->routes = routes;
        t->cap = cap;
    }
    http_route *made = http_route_new(route);
    if (made != NULL)
        t->routes[t->nroutes++] = made;
    return made;
}

static int
add_method(mux_leaf *leaf, PyObject *name, http_route *route)
{
    mux_method *m = &leaf->methods[leaf->nmethods];
    m->text = copy_text(name, &m->len);
    if (m->text == NULL)
        return -1;
    m->route = route;
    leaf->nmethods++;
    return 0;
}

static int
build_methods(http_mux_table *t, mux_leaf *leaf, PyObject *methods)
{
    leaf->methods = PyMem_Calloc((size_t)PyDict_Size(methods) + 1, sizeof(mux_method));
    if (leaf->methods == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *name, *route;
    http_route *get = NULL;
    bool head = false;
    for (Py_ssize_t at = 0; PyDict_Next(methods, &at, &name, &route);) {
        http_route *made = add_route(t, route);
        if (made == NULL || add_method(leaf, name, made) < 0)
            return -1;
        head = head || PyUnicode_CompareWithASCIIString(name, "HEAD") == 0;
        if (PyUnicode_CompareWithASCIIString(name, "GET") == 0)
            get = made;
    }
    if (get == NULL || head)
        return 0;
    name = PyUnicode_FromString("HEAD");
    int r = name ? add_method(leaf, name, get) : -1;
    Py_XDECREF(name);
    return r;
}

/* The Leaf that is an attribute of a Node, or None.  -1 with an exception set. */
static int
build_leaf(http_mux_table *t, PyObject *node, const char *which, mux_leaf **where)
{
    PyObject *any = NULL, *methods = NULL, *leaf = PyObject_GetAttrString(node, which);
    int r = leaf == NULL ? -1 : 0;
    if (r == 0 && leaf != Py_None) {
        r = -1;
        *where = PyMem_Calloc(1, sizeof(mux_leaf));
        if (*where == NULL)
            PyErr_NoMemory();
        else if ((any = PyObject_GetAttrString(leaf, "any")) != NULL
                 && (methods = PyObject_GetAttrString(leaf, "methods")) != NULL
                 && (any == Py_None || ((*where)->any = add_route(t, any)) != NULL))
            r = build_methods(t, *where, methods);
    }
    Py_XDECREF(leaf);
    Py_XDECREF(any);
    Py_XDECREF(methods);
    return r;
}

static mux_node *build_node(http_mux_table *t, PyObject *node);

/* From a dict of str to Node. */
static int
build_edges(http_mux_table *t, mux_edges *edges, PyObject *dict)
{
    if (dict == NULL || !PyDict_Check(dict)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "not a dict of nodes");
        return -1;
    }
    size_t n = (size_t)PyDict_Size(dict), cap = 2;
    if (n == 0)
        return 0;
    while (cap < 2 * n)
        cap *= 2;
    edges->edges = PyMem_Calloc(cap, sizeof(mux_edge));
    if (edges->edges == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    edges->mask = (uint32_t)cap - 1;
    PyObject *text, *node;
    for (Py_ssize_t at = 0; PyDict_Next(dict, &at, &text, &node);) {
        uint32_t len;
        char *copy = copy_text(text, &len);
        if (copy == NULL)
            return -1;
        uint32_t hash = hash_bytes(copy, len), i = hash;
        while (edges->edges[i & edges->mask].text != NULL)
            i++;
        mux_edge *e = &edges->edges[i & edges->mask];
        *e = (mux_edge){hash, len, copy, NULL};
        e->child = build_node(t, node);
        if (e->child == NULL)
            return -1;
    }
    return 0;
}

/* A Node of tree.py and all below it; what is made before a failure is freed. */
static mux_node *
build_node(http_mux_table *t, PyObject *node)
{
    mux_node *made = PyMem_Calloc(1, sizeof(*made));
    if (made == NULL)
        return no_memory();
    PyObject *literals = PyObject_GetAttrString(node, "literals"), *wild = NULL;
    int r = build_edges(t, &made->literals, literals);
    if (r == 0 && (wild = PyObject_GetAttrString(node, "wild")) == NULL)
        r = -1;
    if (r == 0 && wild != Py_None && (made->wild = build_node(t, wild)) == NULL)
        r = -1;
    if (r == 0)
        r = build_leaf(t, node, "leaf", &made->leaf);
    if (r == 0)
        r = build_leaf(t, node, "rest", &made->rest);
    Py_XDECREF(literals);
    Py_XDECREF(wild);
    if (r == 0)
        return made;
    free_node(made);
    return NULL;
}

/* MuxTable(root, hosts): the caller lets nobody change the nodes meanwhile. */
static PyObject *
table_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", NULL};
    PyObject *root, *hosts;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!:MuxTable", names, &root, &PyDict_Type,
                                     &hosts))
        return NULL;
    http_mux_table *t = PyObject_GC_New(http_mux_table, core->mux_table_type);
    if (t == NULL)
        return NULL;
    memset((char *)t + sizeof(PyObject), 0, sizeof(*t) - sizeof(PyObject));
    py_share_object((PyObject *)t);
    t->root = build_node(t, root);
    int r = t->root ? build_edges(t, &t->hosts, hosts) : -1;
    PyObject_GC_Track(t);
    if (r < 0)
        Py_CLEAR(t);
    return (PyObject *)t;
}

/* ---- searching ---- */

typedef struct {
    const char *s;              /* decoded */
    uint32_t len, hash;
    rt_slice raw;               /* of the path */
} mux_seg;

static http_route *
leaf_get(const mux_leaf *leaf, http_bytes method)
{
    if (leaf == NULL)
        return NULL;
    for (uint32_t i = 0; i < leaf->nmethods; i++) {
        const mux_method *m = &leaf->methods[i];
        if (m->len == method.len && memcmp(m->text, method.s, method.len) == 0)
            return m->route;
    }
    return leaf->any;
}

/* The most specific route for the n segments.  Each node is visited at most once, so no path
   costs more than there are nodes. */
static http_route *
search(const mux_node *node, const mux_seg *segs, Py_ssize_t n, http_bytes method)
{
    if (n == 0)
        return leaf_get(node->leaf, method);
    http_route *found;
    const mux_node *child = edges_find(&node->literals, segs->s, segs->len, segs->hash);
    if (child != NULL && (found = search(child, segs + 1, n - 1, method)) != NULL)
        return found;
    if (node->wild != NULL && segs->len != 0
        && (found = search(node->wild, segs + 1, n - 1, method)) != NULL)
        return found;
    return leaf_get(node->rest, method);
}

/* Of the patterns for the host, if there are any, else of those for every host. */
static http_route *
search_host(const http_mux_table *t, const mux_node *own, const mux_seg *segs, Py_ssize_t n,
            http_bytes method)
{
    http_route *found = own ? search(own, segs, n, method) : NULL;
    return found ? found : search(t->root, segs, n, method);
}

/* Add the methods of all routes whose path matches. */
static int
collect(const mux_node *node, const mux_seg *segs, Py_ssize_t n, PyObject *set)
{
    const mux_node *child = NULL;
    if (n != 0)
        child = edges_find(&node->literals, segs->s, segs->len, segs->hash);
    if (child != NULL && collect(child, segs + 1, n - 1, set) < 0)
        return -1;
    if (n != 0 && node->wild != NULL && segs->len != 0
        && collect(node->wild, segs + 1, n - 1, set) < 0)
        return -1;
    const mux_leaf *leaf = n == 0 ? node->leaf : node->rest;
    for (uint32_t i = 0; leaf != NULL && i < leaf->nmethods; i++) {
        PyObject *name = PyUnicode_FromStringAndSize(leaf->methods[i].text,
                                                     leaf->methods[i].len);
        int r = name ? PySet_Add(set, name) : -1;
        Py_XDECREF(name);
        if (r < 0)
            return -1;
    }
    return 0;
}

/* ---- searching, for Python ---- */

/* A list of decoded segments, which keeps the bytes objects in `keep`.  Owned, or NULL with
   an exception set. */
static mux_seg *
segs_of_list(PyObject *list, PyObject **keep)
{
    Py_ssize_t n = PyList_GET_SIZE(list);
    mux_seg *segs = PyMem_Calloc((size_t)n + 1, sizeof(*segs));
    *keep = segs ? PyList_New(0) : no_memory();
    for (Py_ssize_t i = 0; *keep != NULL && i < n; i++) {
        PyObject *encoded = PyUnicode_AsEncodedString(PyList_GET_ITEM(list, i), "utf-8",
                                                      "surrogatepass");
        if (encoded == NULL || PyList_Append(*keep, encoded) < 0)
            Py_CLEAR(*keep);
        else {
            segs[i].s = PyBytes_AS_STRING(encoded);
            segs[i].len = (uint32_t)PyBytes_GET_SIZE(encoded);
            segs[i].hash = hash_bytes(segs[i].s, segs[i].len);
        }
        Py_XDECREF(encoded);
    }
    if (*keep == NULL) {
        PyMem_Free(segs);
        return NULL;
    }
    segs[n] = (mux_seg){.s = "", .hash = HASH_INIT};
    return segs;
}

static const mux_node *
host_root(const http_mux_table *t, const char *host, Py_ssize_t n)
{
    return edges_find(&t->hosts, host, (uint32_t)n, hash_bytes(host, (uint32_t)n));
}

static PyObject *
table_find(http_mux_table *t, PyObject *args)
{
    PyObject *list, *keep;
    const char *host, *method;
    Py_ssize_t nhost, nmethod;
    if (!PyArg_ParseTuple(args, "s#O!s#:find", &host, &nhost, &PyList_Type, &list, &method,
                          &nmethod))
        return NULL;
    mux_seg *segs = segs_of_list(list, &keep);
    if (segs == NULL)
        return NULL;
    http_route *found = search_host(t, host_root(t, host, nhost), segs, PyList_GET_SIZE(list),
                                    (http_bytes){method, (uint32_t)nmethod});
    PyMem_Free(segs);
    Py_DECREF(keep);
    return Py_NewRef(found ? found->route : Py_None);
}

static PyObject *
table_allowed(http_mux_table *t, PyObject *args)
{
    PyObject *list, *keep;
    const char *host;
    Py_ssize_t nhost;
    if (!PyArg_ParseTuple(args, "s#O!:allowed", &host, &nhost, &PyList_Type, &list))
        return NULL;
    mux_seg *segs = segs_of_list(list, &keep);
    if (segs == NULL)
        return NULL;
    PyObject *set = PySet_New(NULL);
    const mux_node *own = host_root(t, host, nhost);
    if (set != NULL && ((own && collect(own, segs, PyList_GET_SIZE(list), set) < 0)
                        || collect(t->root, segs, PyList_GET_SIZE(list), set) < 0))
        Py_CLEAR(set);
    PyMem_Free(segs);
    Py_DECREF(keep);
    return set;
}

static PyMethodDef table_methods[] = {
    {"find", (PyCFunction)table_find, METH_VARARGS,
     "find($self, host, segments, method, /)\n--\n\n"
     "The most specific Route, or None."},
    {"allowed", (PyCFunction)table_allowed, METH_VARARGS,
     "allowed($self, host, segments, /)\n--\n\n"
     "The methods of all routes whose path matches, a set."},
    {0},
};
static PyType_Slot table_slots[] = {
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_traverse, table_traverse},
    {Py_tp_methods, table_methods},
    {Py_tp_doc, "MuxTable(root, hosts, /)\n--\n\nThe routes of a mux, ready for lookups."},
    {0, NULL},
};
static PyType_Spec table_spec = {
    "runtime._core.MuxTable", sizeof(http_mux_table), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, table_slots};

/* ---- the lookup of a request ---- */

typedef struct {
    mux_seg segs[MAX_SEGS + 1];
    uint32_t n, ndecoded;
    char decoded[MAX_DECODED];
} mux_path;

/* Decode a segment with escapes.  False: it does not fit, or is no UTF-8. */
static bool
decode_seg(mux_path *p, mux_seg *seg)
{
    if (seg->len > MAX_DECODED - p->ndecoded)
        return false;
    char *buf = p->decoded + p->ndecoded;
    seg->len = (uint32_t)http_unescape(buf, seg->s, seg->len, false);
    seg->s = buf;
    seg->hash = hash_bytes(buf, seg->len);
    p->ndecoded += seg->len;
    for (uint32_t i = 0; i < seg->len; i++) {
        if ((unsigned char)buf[i] < 0x80)
            continue;
        PyObject *text = PyUnicode_DecodeUTF8(buf, seg->len, NULL);
        if (text == NULL)
            PyErr_Clear();
        Py_XDECREF(text);
        return text != NULL;
    }
    return true;
}

/* False: the path is not plain. */
static bool
split_path(mux_path *p, const char *s, uint32_t n)
{
    p->n = p->ndecoded = 0;
    if (n == 0 || s[0] != '/')
        return false;
    for (uint32_t i = 1;; i++) {
        uint32_t start = i, hash = HASH_INIT;
        bool escaped = false;
        unsigned char seen = 0;
        for (; i < n && s[i] != '/'; i++) {
            hash = HASH_ADD(hash, s[i]);
            escaped = escaped || s[i] == '%';
            seen |= (unsigned char)s[i];
        }
        /* "//", "/." and "/..": perhaps to be cleaned */
        if (seen >= 0x80 || (i == start ? i < n : s[start] == '.') || p->n == MAX_SEGS)
            return false;
        mux_seg *seg = &p->segs[p->n++];
        *seg = (mux_seg){s + start, i - start, hash, {start, i - start}};
        if (escaped && !decode_seg(p, seg))
            return false;
        if (i >= n)
            return true;
    }
}

/* The root of the patterns for that host only, or NULL.  False: the host is not plain. */
static bool
find_host(const http_mux_table *t, http_bytes host, const mux_node **own)
{
    char lower[MAX_HOST];
    uint32_t n = host.len, colons = 0, bracket = 0;
    if (n > MAX_HOST)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        char ch = host.s[i];
        if ((unsigned char)ch >= 0x80)
            return false;
        lower[i] = ch >= 'A' && ch <= 'Z' ? (char)(ch + 32) : ch;
        colons += ch == ':';
        if (ch == ']' && bracket == 0)
            bracket = i;
    }
    if (n != 0 && lower[0] == '[') {
        if (bracket != 0 && bracket + 1 < n && lower[bracket + 1] == ':')
            n = bracket + 1;
    }
    else if (colons == 1)
        n = (uint32_t)((char *)memchr(lower, ':', n) - lower);
    *own = host_root(t, lower, n);
    return true;
}

/* Kept out of the frames that a handler runs under. */
RT_NOINLINE http_route *
http_mux_lookup(const http_mux_table *t, http_bytes method, http_bytes host, http_bytes path,
                rt_slice *wild, uint32_t *strip)
{
    mux_path p;
    const mux_node *own = NULL;
    if (method.len == 7 && memcmp(method.s, "CONNECT", 7) == 0)
        return NULL;            /* its path is not to be cleaned, its port counts */
    if (!split_path(&p, path.s, path.len))
        return NULL;
    if (t->hosts.edges != NULL && !find_host(t, host, &own))
        return NULL;
    http_route *route = search_host(t, own, p.segs, p.n, method);
    if (route == NULL)
        return NULL;
    if (route->open_ended && p.segs[p.n - 1].len != 0) {
        /* Not matched exactly.  Is "path/", by a pattern that spells all of it? */
        p.segs[p.n] = (mux_seg){.s = "", .hash = HASH_INIT};
        http_route *slashed = search_host(t, own, p.segs, p.n + 1, method);
        if (slashed != NULL && (!slashed->open_ended || slashed->nsegs == p.n + 1))
            return NULL;
    }
    for (int i = 0; i < route->nwild; i++) {
        rt_slice *at = &p.segs[route->wild[i].seg].raw;
        wild[i] = *at;
        if (route->wild[i].kind == HTTP_WILD_REST)
            wild[i].len = path.len - at->off;
        else if (route->wild[i].kind == HTTP_WILD_INT
                 && !http_wild_is_int(path.s + at->off, at->len))
            return NULL;
    }
    *strip = route->strip ? p.segs[route->strip].raw.off - 1 : 0;
    return (http_route *)Py_NewRef((PyObject *)route);
}

int
http_mux_table_init(PyObject *module)
{
    return py_add_type(module, &table_spec, &core->mux_table_type, true);
}
