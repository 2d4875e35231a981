/*
 * A directory as an NFS export shows it that squashes root, without an NFS client in the kernel: squash DIRECTORY MOUNTPOINT.
 *
 * Whatever root asks for is done as nobody, all else as whoever asks; so the files' owners and modes decide what root may do,
 * which owns nothing, reads only what anybody may read and gives nothing away. Nothing is cached: what one host writes another
 * one that has mounted the same directory finds at once. The kernel calls it fuse.glusterfs, a kind that libvirt knows to be a
 * file system of the network, as it knows NFS.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NOBODY 65534

static int top; /* the directory */

/* One thread serves all, so it can be one caller at a time. Not being root for files costs the kernel's exceptions for root. */
static void become_caller(void)
{
    struct fuse_context *caller = fuse_get_context();
    setfsgid(caller->gid ? caller->gid : NOBODY);
    setfsuid(caller->uid ? caller->uid : NOBODY);
}

static long answer(long result)
{
    long error = result == -1 ? -errno : result;
    setfsuid(0);
    setfsgid(0);
    return error;
}

#define AS_CALLER(call) (become_caller(), answer(call))

static const char *below(const char *path) { return path[1] ? path + 1 : "."; }

static int do_getattr(const char *path, struct stat *found, struct fuse_file_info *file)
{
    if (file)
        return AS_CALLER(fstat(file->fh, found));
    return AS_CALLER(fstatat(top, below(path), found, AT_SYMLINK_NOFOLLOW));
}

static int do_readlink(const char *path, char *name, size_t size)
{
    long length = AS_CALLER(readlinkat(top, below(path), name, size - 1));
    if (length < 0)
        return length;
    name[length] = 0;
    return 0;
}

static int do_mkdir(const char *path, mode_t mode) { return AS_CALLER(mkdirat(top, below(path), mode)); }
static int do_unlink(const char *path) { return AS_CALLER(unlinkat(top, below(path), 0)); }
static int do_rmdir(const char *path) { return AS_CALLER(unlinkat(top, below(path), AT_REMOVEDIR)); }
static int do_symlink(const char *to, const char *path) { return AS_CALLER(symlinkat(to, top, below(path))); }
static int do_link(const char *from, const char *to) { return AS_CALLER(linkat(top, below(from), top, below(to), 0)); }

static int do_rename(const char *from, const char *to, unsigned int flags)
{
    return AS_CALLER(renameat2(top, below(from), top, below(to), flags));
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *file)
{
    return file ? AS_CALLER(fchmod(file->fh, mode)) : AS_CALLER(fchmodat(top, below(path), mode, 0));
}

static int do_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *file)
{
    return file ? AS_CALLER(fchown(file->fh, uid, gid)) : AS_CALLER(fchownat(top, below(path), uid, gid, AT_SYMLINK_NOFOLLOW));
}

static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file)
{
    return file ? AS_CALLER(futimens(file->fh, times)) : AS_CALLER(utimensat(top, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int opened(struct fuse_file_info *file, long descriptor)
{
    if (descriptor < 0)
        return descriptor;
    file->fh = descriptor;
    file->direct_io = 1;
    return 0;
}

/* What the caller has in memory need not be where the disk below wants it. */
static int flags_of(struct fuse_file_info *file) { return file->flags & ~O_DIRECT; }

static int do_open(const char *path, struct fuse_file_info *file)
{
    return opened(file, AS_CALLER(openat(top, below(path), flags_of(file))));
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *file)
{
    return opened(file, AS_CALLER(openat(top, below(path), flags_of(file) | O_CREAT, mode)));
}

static int do_truncate(const char *path, off_t size, struct fuse_file_info *file)
{
    if (file)
        return AS_CALLER(ftruncate(file->fh, size));
    long descriptor = AS_CALLER(openat(top, below(path), O_WRONLY));
    if (descriptor < 0)
        return descriptor;
    int failed = ftruncate(descriptor, size) ? -errno : 0;
    close(descriptor);
    return failed;
}

static int do_read(const char *path, char *buffer, size_t size, off_t at, struct fuse_file_info *file)
{
    return AS_CALLER(pread(file->fh, buffer, size, at));
}

static int do_write(const char *path, const char *buffer, size_t size, off_t at, struct fuse_file_info *file)
{
    return AS_CALLER(pwrite(file->fh, buffer, size, at));
}

static int do_fallocate(const char *path, int mode, off_t at, off_t length, struct fuse_file_info *file)
{
    return AS_CALLER(fallocate(file->fh, mode, at, length));
}

static off_t do_lseek(const char *path, off_t at, int whence, struct fuse_file_info *file)
{
    return AS_CALLER(lseek(file->fh, at, whence));
}

static int do_fsync(const char *path, int data_only, struct fuse_file_info *file)
{
    return data_only ? AS_CALLER(fdatasync(file->fh)) : AS_CALLER(fsync(file->fh));
}

static int do_release(const char *path, struct fuse_file_info *file) { return close(file->fh) ? -errno : 0; }

static int do_statfs(const char *path, struct statvfs *found) { return AS_CALLER(fstatvfs(top, found)); }

static int do_readdir(const char *path, void *names, fuse_fill_dir_t add, off_t at, struct fuse_file_info *file,
                      enum fuse_readdir_flags flags)
{
    long descriptor = AS_CALLER(openat(top, below(path), O_RDONLY | O_DIRECTORY));
    DIR *directory = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!directory)
        return descriptor < 0 ? descriptor : -errno;
    for (struct dirent *entry; (entry = readdir(directory));)
        add(names, entry->d_name, NULL, 0, 0);
    closedir(directory);
    return 0;
}

static void *do_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
    config->use_ino = 1;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = do_init, .getattr = do_getattr, .readlink = do_readlink, .mkdir = do_mkdir, .unlink = do_unlink,
    .rmdir = do_rmdir, .symlink = do_symlink, .link = do_link, .rename = do_rename, .chmod = do_chmod, .chown = do_chown,
    .utimens = do_utimens, .open = do_open, .create = do_create, .truncate = do_truncate, .read = do_read, .write = do_write,
    .fallocate = do_fallocate, .lseek = do_lseek, .fsync = do_fsync, .release = do_release, .statfs = do_statfs,
    .readdir = do_readdir,
};

int main(int argc, char **argv)
{
    char *arguments[] = {argv[0], "-s", "-o", "allow_other,subtype=glusterfs,fsname=squashed", argc == 3 ? argv[2] : "", NULL};
    if (argc != 3 || (top = open(argv[1], O_RDONLY | O_DIRECTORY)) < 0) {
        fprintf(stderr, "usage: squash DIRECTORY MOUNTPOINT\n");
        return 2;
    }
    setgroups(0, NULL);
    umask(0);
    return fuse_main(5, arguments, &operations, NULL);
}
