/* What a static executable cannot do: load libraries, and ask the host's name services, which are
 * libraries of another C library. build.py gives libpython these in the place of the real ones.
 *
 * Relies on CPython 3.11: posix, _socket and the loader of extensions take these for failures.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <sys/types.h>

void *refused_dlopen(const char *name, int flags);
void *refused_dlsym(void *library, const char *name);
char *refused_dlerror(void);
int refused_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int refused_getgrouplist(const char *, gid_t, gid_t *, int *);
int refused_initgroups(const char *, gid_t);
int refused_gethostbyaddr_r(const void *, socklen_t, int, struct hostent *, char *, size_t,
                            struct hostent **, int *);
int refused_gethostbyname_r(const char *, struct hostent *, char *, size_t, struct hostent **, int *);
struct protoent *refused_getprotobyname(const char *);
struct servent *refused_getservbyname(const char *, const char *);
struct servent *refused_getservbyport(int, const char *);

void *
refused_dlopen(const char *name, int flags)
{
    (void)name, (void)flags;
    errno = ENOSYS;
    return NULL;
}

void *
refused_dlsym(void *library, const char *name)
{
    (void)library, (void)name;
    return NULL;
}

char *
refused_dlerror(void)
{
    static char text[] = "the plugin loads no libraries";
    return text;
}

int
refused_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                    struct addrinfo **found)
{
    (void)node, (void)service, (void)hints;
    *found = NULL;
    return EAI_FAIL;
}

int
refused_getgrouplist(const char *user, gid_t group, gid_t *groups, int *count)
{
    (void)user, (void)group, (void)groups, (void)count;
    errno = ENOSYS;
    return -1;
}

int
refused_initgroups(const char *user, gid_t group)
{
    (void)user, (void)group;
    errno = ENOSYS;
    return -1;
}

int
refused_gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *host,
                        char *room, size_t size, struct hostent **found, int *fault)
{
    (void)address, (void)length, (void)family, (void)host, (void)room, (void)size;
    *found = NULL;
    *fault = NO_RECOVERY;
    return ENOSYS;
}

int
refused_gethostbyname_r(const char *name, struct hostent *host, char *room, size_t size,
                        struct hostent **found, int *fault)
{
    (void)name, (void)host, (void)room, (void)size;
    *found = NULL;
    *fault = NO_RECOVERY;
    return ENOSYS;
}

struct protoent *
refused_getprotobyname(const char *name)
{
    (void)name;
    return NULL;
}

struct servent *
refused_getservbyname(const char *name, const char *protocol)
{
    (void)name, (void)protocol;
    return NULL;
}

struct servent *
refused_getservbyport(int port, const char *protocol)
{
    (void)port, (void)protocol;
    return NULL;
}
