/*
 * For LD_PRELOAD: makes calls of one library fail by which it requests memory, descriptors, mappings or threads.
 * FAILING_LIBRARY is a part of the library's name. The nth such call fails, and with `all` every later one too.
 * FAILING_ONLY: only calls of this function count. Calls of other libraries don't fail. A program starts this with
 * failing_arm. In Node this file is also an addon, whose functions do the same.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

struct range {
  uintptr_t start, end;
};
static struct range library, threads; /* the code of that library, and of the C++ library, which makes threads for it */
static atomic_int until;              /* how many calls until one fails; 0: none fails */
static atomic_bool all_after;
static atomic_bool memory_too = true; /* false: calls of malloc don't fail */
static _Atomic(const char*) first; /* the call that failed first */

static int look(struct dl_phdr_info* info, size_t size, void* data) {
  (void)size;
  (void)data;
  const char* wanted = getenv("FAILING_LIBRARY");
  struct range* into = NULL;
  if (wanted && strstr(info->dlpi_name, wanted)) into = &library;
  if (strstr(info->dlpi_name, "libstdc++")) into = &threads;
  if (!into) return 0;
  into->start = info->dlpi_addr;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const uintptr_t end = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
    if (info->dlpi_phdr[i].p_type == PT_LOAD && end > into->end) into->end = end;
  }
  return 0;
}

static bool within(const struct range* range, const void* caller) {
  return (uintptr_t)caller >= range->start && (uintptr_t)caller < range->end;
}

static bool fails(const char* what, const void* caller) {
  if (atomic_load_explicit(&until, memory_order_relaxed) == 0 || !within(&library, caller)) return false;
  if (!memory_too && strcmp(what, "malloc") == 0) return false;
  const char* only = getenv("FAILING_ONLY");
  if (only && strcmp(only, what) != 0) return false;
  int left = atomic_load(&until);
  do {
    if (left == 0) return false;
  } while (!atomic_compare_exchange_weak(&until, &left, left - 1));
  if (left != 1) return false;
  const char* none = NULL;
  atomic_compare_exchange_strong(&first, &none, what);
  if (all_after) until = 1;
  return true;
}

EXPORTED void failing_arm(int nth, int all, int memory) {
  dl_iterate_phdr(look, NULL);
  first = NULL;
  all_after = all != 0;
  memory_too = memory != 0;
  until = nth;
}

/* Returns the name of the call that failed first since failing_arm; null: none failed. */
EXPORTED const char* failing_disarm(void) {
  until = 0;
  return first;
}

/* ------------------------------------------------------------------------------------------- memory */

void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);

EXPORTED void* malloc(size_t size) {
  if (!fails("malloc", CALLER)) return __libc_malloc(size);
  errno = ENOMEM;
  return NULL;
}

EXPORTED void* aligned_alloc(size_t alignment, size_t size) {
  if (!fails("malloc", CALLER)) return __libc_memalign(alignment, size);
  errno = ENOMEM;
  return NULL;
}

EXPORTED void* mmap(void* hint, size_t length, int protection, int flags, int fd, off_t offset) {
  if (!fails("mmap", CALLER)) return (void*)syscall(SYS_mmap, hint, length, protection, flags, fd, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}

EXPORTED void* mmap64(void* hint, size_t length, int protection, int flags, int fd, off_t offset) {
  if (!fails("mmap", CALLER)) return (void*)syscall(SYS_mmap, hint, length, protection, flags, fd, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}

/* ------------------------------------------------------------------------------------------- descriptors */

static int unless(const char* what, int error, const void* caller) {
  if (!fails(what, caller)) return 0;
  errno = error;
  return -1;
}

EXPORTED int eventfd(unsigned count, int flags) {
  return unless("eventfd", EMFILE, CALLER) ? -1 : (int)syscall(SYS_eventfd2, count, flags);
}

EXPORTED int socketpair(int domain, int type, int protocol, int ends[2]) {
  return unless("socketpair", EMFILE, CALLER) ? -1 : (int)syscall(SYS_socketpair, domain, type, protocol, ends);
}

EXPORTED int pipe2(int ends[2], int flags) {
  return unless("pipe2", EMFILE, CALLER) ? -1 : (int)syscall(SYS_pipe2, ends, flags);
}

EXPORTED int memfd_create(const char* name, unsigned flags) {
  return unless("memfd_create", ENFILE, CALLER) ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}

EXPORTED int ftruncate(int fd, off_t size) {
  return unless("ftruncate", ENOSPC, CALLER) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

EXPORTED int ftruncate64(int fd, off_t size) {
  return unless("ftruncate", ENOSPC, CALLER) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

static int control(int fd, int command, void* argument, const void* caller) {
  if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && unless("fcntl", EMFILE, caller)) return -1;
  return (int)syscall(SYS_fcntl, fd, command, argument);
}

#define FCNTL(name)                             \
  EXPORTED int name(int fd, int command, ...) { \
    va_list list;                               \
    va_start(list, command);                    \
    void* argument = va_arg(list, void*);       \
    va_end(list);                               \
    return control(fd, command, argument, CALLER); \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

EXPORTED int dup(int fd) { return unless("dup", EMFILE, CALLER) ? -1 : (int)syscall(SYS_dup, fd); }

#define OPEN(name)                                                                                        \
  EXPORTED int name(const char* path, int flags, ...) {                                                   \
    va_list list;                                                                                         \
    va_start(list, flags);                                                                                \
    const int mode = va_arg(list, int);                                                                   \
    va_end(list);                                                                                         \
    return unless("open", EMFILE, CALLER) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);  \
  }
OPEN(open)
OPEN(open64)

EXPORTED DIR* opendir(const char* path) {
  static DIR* (*next)(const char*);
  if (!next) next = (DIR * (*)(const char*)) dlsym(RTLD_NEXT, "opendir");
  return unless("opendir", EMFILE, CALLER) ? NULL : next(path);
}

EXPORTED char* mkdtemp(char* pattern) {
  static char* (*next)(char*);
  if (!next) next = (char* (*)(char*))dlsym(RTLD_NEXT, "mkdtemp");
  return unless("mkdtemp", ENOSPC, CALLER) ? NULL : next(pattern);
}

EXPORTED int mkdir(const char* path, mode_t mode) {
  return unless("mkdir", ENOSPC, CALLER) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

EXPORTED int symlink(const char* target, const char* path) {
  return unless("symlink", ENOSPC, CALLER) ? -1 : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

/* ------------------------------------------------------------------------------------------- threads */

EXPORTED int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                            void* argument) {
  static int (*next)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (!next) *(void**)&next = dlsym(RTLD_NEXT, "pthread_create");
  const void* caller = within(&threads, CALLER) ? (const void*)library.start : CALLER;
  return fails("pthread_create", caller) ? EAGAIN : next(thread, attributes, run, argument);
}

/* ------------------------------------------------------------------------------------------- Node */

/* The parts of node_api.h that are used. Programs other than Node lack these functions. */
typedef struct napi_env__* napi_env;
typedef struct napi_value__* napi_value;
typedef struct napi_callback_info__* napi_callback_info;
typedef napi_value (*napi_callback)(napi_env, napi_callback_info);
#define NODE(name, ...) extern int name(__VA_ARGS__) __attribute__((weak))
NODE(napi_get_cb_info, napi_env, napi_callback_info, size_t*, napi_value*, napi_value*, void**);
NODE(napi_get_value_int32, napi_env, napi_value, int32_t*);
NODE(napi_create_string_utf8, napi_env, const char*, size_t, napi_value*);
NODE(napi_get_null, napi_env, napi_value*);
NODE(napi_create_function, napi_env, const char*, size_t, napi_callback, void*, napi_value*);
NODE(napi_set_named_property, napi_env, napi_value, const char*, napi_value);

static napi_value arm(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value arguments[3];
  int32_t nth = 0, all = 0, memory = 1;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  napi_get_value_int32(env, arguments[0], &nth);
  napi_get_value_int32(env, arguments[1], &all);
  napi_get_value_int32(env, arguments[2], &memory);
  failing_arm(nth, all, memory);
  return NULL;
}

static napi_value disarm(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value result;
  const char* what = failing_disarm();
  if (what)
    napi_create_string_utf8(env, what, SIZE_MAX, &result);
  else
    napi_get_null(env, &result);
  return result;
}

EXPORTED napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  napi_value function;
  napi_create_function(env, "arm", SIZE_MAX, arm, NULL, &function);
  napi_set_named_property(env, exports, "arm", function);
  napi_create_function(env, "disarm", SIZE_MAX, disarm, NULL, &function);
  napi_set_named_property(env, exports, "disarm", function);
  return exports;
}
