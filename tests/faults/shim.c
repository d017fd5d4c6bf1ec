/* Stands between the store and its disk: writes down what is done to a folder, and makes it fail.
 *
 * Loaded by LD_PRELOAD in front of the C library. It keeps to the files of one folder, which
 * shim_watch names; all else passes untouched. Two uses, also at once:
 *
 * A log of all that changes the folder, in the order in which it was done: what a disk has at any
 * moment can be computed from it, a power cut included. Shared memory (*-shm) is not in it, for no
 * power cut leaves any. The program's own marks stand in the same order.
 *
 * Faults, at the place that shim_arm counts: no space, an I/O error, a write that is cut short, a
 * sync that fails and loses what was to be synced. Linux marks the pages of a failed sync clean
 * (Rebello et al., Can Applications Recover from fsync Failures?, USENIX ATC 2020): on some file
 * systems their old content shows at once, on others the new one does until the machine restarts.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, UNLINK, RENAME, MARK, REVERT, FORGET };
enum fault { NONE, NO_SPACE, IO_ERROR, SHORT_WRITE, SYNC_REVERTS, SYNC_FORGETS };
enum class { CHANGE, WRITING, SYNCING, NUM_CLASSES }; /* what is counted; the first is all of it */

struct record { /* what stands in the log before `length` bytes of data */
    int64_t kind, file, offset, length;
};

struct undo { /* what a file had before it was changed, until it is synced */
    struct undo *next;
    int64_t file, file_bytes;
    off_t offset;
    size_t length;
    char data[];
};

struct place { /* where in the folder a descriptor leads */
    char path[PATH_MAX];
    const char *name; /* NULL: the folder itself */
    int64_t file;
    off_t file_bytes;
    int is_shared_memory;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length; /* 0: nothing is watched */
static int log_fd = -1;
static struct undo *undo_list;
static long counts[NUM_CLASSES], num_failed;
static enum fault armed;
static long armed_position, armed_count; /* fails at this one; how many there were since */
static int armed_is_sticky;

/* -- the calls themselves */

static ssize_t raw_pwrite(int fd, const void *data, size_t length, off_t offset) {
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

static int raw_truncate(int fd, off_t file_bytes) {
    return syscall(SYS_ftruncate, fd, file_bytes);
}

/* -- the log */

static void put_bytes(const char *data, size_t length) {
    while (length > 0) {
        ssize_t done = syscall(SYS_write, log_fd, data, length);
        if (done <= 0)
            abort(); /* a log with a hole would prove nothing */
        data += done;
        length -= done;
    }
}

static void put(enum kind kind, int64_t file, off_t offset, const void *data, size_t length) {
    struct record record = {kind, file, offset, length};
    if (log_fd < 0)
        return;
    put_bytes((const char *)&record, sizeof record);
    put_bytes(data, length);
}

/* -- where a call leads */

static const char *name_of(const char *path) {
    if (folder_length == 0 || strncmp(path, folder, folder_length) != 0)
        return NULL;
    return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

static int is_shared_memory(const char *name) {
    size_t length = strlen(name);
    return length >= 4 && strcmp(name + length - 4, "-shm") == 0;
}

static int find_place(int fd, struct place *place) {
    char link[32];
    struct stat status;
    if (folder_length == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, place->path, sizeof place->path - 1);
    if (length <= 0)
        return 0;
    place->path[length] = 0;
    place->name = name_of(place->path);
    if (place->name == NULL && strcmp(place->path, folder) != 0)
        return 0;
    if (fstat(fd, &status) != 0)
        return 0;
    place->file = status.st_ino;
    place->file_bytes = status.st_size;
    place->is_shared_memory = place->name != NULL && is_shared_memory(place->name);
    return 1;
}

/* -- faults */

static int is_meant(enum class class) {
    switch (armed) {
    case NO_SPACE:
    case IO_ERROR:
        return 1;
    case SHORT_WRITE:
        return class == WRITING;
    case SYNC_REVERTS:
    case SYNC_FORGETS:
        return class == SYNCING;
    default:
        return 0;
    }
}

/* Counts a call and returns the fault that it meets. After a short write comes a full disk. */
static enum fault meet(enum class class) {
    counts[CHANGE]++;
    if (class != CHANGE)
        counts[class]++;
    if (!is_meant(class))
        return NONE;
    armed_count++;
    long past = armed_count - armed_position;
    if (past < 0 || (past > 0 && !armed_is_sticky && !(armed == SHORT_WRITE && past == 1)))
        return NONE;
    num_failed++;
    return armed == SHORT_WRITE && past > 0 ? NO_SPACE : armed;
}

static int fail(enum fault fault) {
    if (fault == NONE)
        return 0;
    errno = fault == NO_SPACE ? ENOSPC : EIO;
    return -1;
}

/* -- what a sync that reverts has to put back */

static void keep_undo(int fd, const struct place *place, off_t offset, size_t length) {
    if (armed != SYNC_REVERTS || place->is_shared_memory)
        return;
    if (offset >= place->file_bytes)
        length = 0;
    else if ((off_t)length > place->file_bytes - offset)
        length = place->file_bytes - offset;
    struct undo *undo = malloc(sizeof *undo + length);
    if (undo == NULL || syscall(SYS_pread64, fd, undo->data, length, offset) != (ssize_t)length)
        abort();
    undo->file = place->file;
    undo->file_bytes = place->file_bytes;
    undo->offset = offset;
    undo->length = length;
    undo->next = undo_list;
    undo_list = undo;
}

/* Forgets what is kept of a file (any: -1), the newest first; with a descriptor it is put back. */
static void drop_undo(int64_t file, int fd) {
    struct undo **link = &undo_list;
    while (*link != NULL) {
        struct undo *undo = *link;
        if (file >= 0 && undo->file != file) {
            link = &undo->next;
            continue;
        }
        if (fd >= 0) {
            raw_pwrite(fd, undo->data, undo->length, undo->offset);
            raw_truncate(fd, undo->file_bytes);
        }
        *link = undo->next;
        free(undo);
    }
}

/* -- what the program calls */

void shim_watch(const char *path, int fd) {
    pthread_mutex_lock(&lock);
    drop_undo(-1, -1);
    folder_length = strlen(path);
    strncpy(folder, path, sizeof folder - 1);
    log_fd = fd;
    armed = NONE;
    num_failed = 0;
    memset(counts, 0, sizeof counts);
    pthread_mutex_unlock(&lock);
}

void shim_arm(int fault, long position, int is_sticky) {
    pthread_mutex_lock(&lock);
    armed = fault;
    armed_position = position;
    armed_count = 0;
    armed_is_sticky = is_sticky;
    pthread_mutex_unlock(&lock);
}

void shim_mark(long number) {
    pthread_mutex_lock(&lock);
    put(MARK, 0, number, NULL, 0);
    pthread_mutex_unlock(&lock);
}

long shim_count(int class) {
    return counts[class];
}

long shim_num_failed(void) {
    return num_failed;
}

/* -- what it calls without knowing */

static ssize_t do_write(int fd, const void *data, size_t length, off_t offset) {
    struct place place;
    pthread_mutex_lock(&lock);
    ssize_t done;
    if (!find_place(fd, &place)) {
        done = raw_pwrite(fd, data, length, offset);
    } else {
        enum fault fault = meet(WRITING);
        if (fault == SHORT_WRITE && length > 1)
            length /= 2;
        else if (fault != NONE)
            length = 0;
        if (length == 0 && fault != NONE) {
            done = fail(fault == SHORT_WRITE ? NO_SPACE : fault);
        } else {
            keep_undo(fd, &place, offset, length);
            done = raw_pwrite(fd, data, length, offset);
            if (done > 0 && !place.is_shared_memory)
                put(WRITE, place.file, offset, data, done);
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return do_write(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return do_write(fd, data, length, offset);
}

ssize_t write(int fd, const void *data, size_t length) {
    struct place place;
    if (!find_place(fd, &place))
        return syscall(SYS_write, fd, data, length);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = do_write(fd, data, length, offset);
    if (done > 0)
        lseek(fd, offset + done, SEEK_SET);
    return done;
}

int ftruncate(int fd, off_t file_bytes) {
    struct place place;
    pthread_mutex_lock(&lock);
    int is_ours = find_place(fd, &place);
    int done = is_ours ? fail(meet(CHANGE)) : 0;
    if (is_ours && done == 0)
        keep_undo(fd, &place, file_bytes, SSIZE_MAX); /* all that is cut off */
    if (done == 0)
        done = raw_truncate(fd, file_bytes);
    if (is_ours && done == 0 && !place.is_shared_memory)
        put(TRUNCATE, place.file, file_bytes, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int fd, off64_t file_bytes) {
    return ftruncate(fd, file_bytes);
}

static int do_sync(int fd, long number) {
    struct place place;
    pthread_mutex_lock(&lock);
    int is_ours = find_place(fd, &place);
    enum fault fault = is_ours ? meet(SYNCING) : NONE;
    int done = fault == NONE ? syscall(number, fd) : fail(fault);
    if (fault == SYNC_REVERTS || fault == SYNC_FORGETS) {
        if (place.name != NULL) {
            drop_undo(place.file, fault == SYNC_REVERTS ? fd : -1);
            put(fault == SYNC_REVERTS ? REVERT : FORGET, place.file, 0, NULL, 0);
        }
    } else if (is_ours && done == 0) {
        drop_undo(place.file, -1);
        put(place.name == NULL ? SYNC_FOLDER : SYNC, place.file, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) {
    return do_sync(fd, SYS_fsync);
}

int fdatasync(int fd) {
    return do_sync(fd, SYS_fdatasync);
}

static int do_open(const char *path, int flags, mode_t mode) {
    const char *name = name_of(path);
    struct stat status;
    if (name == NULL || !(flags & O_CREAT))
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = stat(path, &status) != 0;
    int fd = is_new ? fail(meet(CHANGE)) : 0;
    if (fd == 0)
        fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && is_new && !is_shared_memory(name) && fstat(fd, &status) == 0) {
        drop_undo(status.st_ino, -1); /* of a file that is gone */
        put(CREATE, status.st_ino, 0, name, strlen(name));
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, mode)                                                                          \
    mode_t mode = 0;                                                                               \
    if ((flags) & O_CREAT) {                                                                       \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return do_open(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return do_open(path, flags, mode);
}

int unlink(const char *path) {
    const char *name = name_of(path);
    if (name == NULL)
        return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int done = fail(meet(CHANGE));
    if (done == 0)
        done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0 && !is_shared_memory(name))
        put(UNLINK, 0, 0, name, strlen(name));
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    const char *old = name_of(from), *new = name_of(to);
    char names[2 * PATH_MAX];
    if (old == NULL || new == NULL)
        return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_lock(&lock);
    int done = fail(meet(CHANGE));
    if (done == 0)
        done = syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (done == 0) {
        int length = snprintf(names, sizeof names, "%s/%s", old, new);
        put(RENAME, 0, 0, names, length);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
