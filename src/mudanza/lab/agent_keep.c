/*
 * What a lab guest keeps outside its disks: a UEFI variable of ours in NVRAM (Linux' efivarfs), and an
 * NV index of ours in the TPM (TPM 2.0 Library, part 3: TPM2_NV_DefineSpace, TPM2_NV_Write, TPM2_NV_Read).
 */
#include "agent_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define VARIABLE "/sys/firmware/efi/efivars/MudanzaMark-6d756461-6e7a-4100-8000-6c6162677374"
#define TPM "/dev/tpmrm0"

enum {
    EFI_ATTRIBUTES = 7, /* non-volatile, boot service access, runtime access */
    TPM_ST_SESSIONS = 0x8002,
    TPM_CC_NV_DEFINE_SPACE = 0x12A,
    TPM_CC_NV_WRITE = 0x137,
    TPM_CC_NV_READ = 0x14E,
    TPM_RC_NV_DEFINED = 0x14C,
    TPM_RH_OWNER = 0x40000001,
    TPM_RS_PW = 0x40000009,
    TPM_ALG_SHA256 = 0x000B,
    NV_INDEX = 0x01806D75,
    NV_ATTRIBUTES = 0x02060006, /* owner and authorisation may read and write, no dictionary attack logic */
    HEADER = 10,
    READ_DATA_AT = HEADER + 4 + 2, /* after the parameters' size and the data's own */
};

/* ---- NVRAM ---- */

struct variable {
    uint32_t attributes;
    uint64_t number;
} __attribute__((packed));

/* efivarfs protects variables it does not know from being changed by mistake. */
static void unprotect(void)
{
    int fd = open(VARIABLE, O_RDONLY | O_CLOEXEC), flags = 0;
    if (fd >= 0) {
        ioctl(fd, FS_IOC_SETFLAGS, &flags); /* if it fails, the write says so */
        close(fd);
    }
}

const char *keep_in_nvram(uint64_t number)
{
    struct variable content = {EFI_ATTRIBUTES, number};
    unprotect();
    int fd = open(VARIABLE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    bool written = fd >= 0 && write(fd, &content, sizeof content) == sizeof content;
    const char *trouble = written ? NULL : strerror(errno);
    close(fd);
    return trouble;
}

const char *kept_in_nvram(uint64_t *number)
{
    struct variable content;
    int fd = open(VARIABLE, O_RDONLY | O_CLOEXEC);
    const char *trouble = fd < 0 ? strerror(errno) : NULL;
    if (!trouble && read(fd, &content, sizeof content) != sizeof content)
        trouble = "the variable is not ours";
    close(fd);
    if (!trouble)
        *number = content.number;
    return trouble;
}

/* ---- TPM ---- */

struct message {
    uint8_t bytes[4096];
    size_t length;
};

static void put(struct message *message, uint64_t value, size_t size) /* big-endian, as everything in a TPM */
{
    while (size--)
        message->bytes[message->length++] = (uint8_t)(value >> (8 * size));
}

static uint64_t get(const struct message *message, size_t at, size_t size)
{
    uint64_t value = 0;
    while (size--)
        value = value << 8 | message->bytes[at++];
    return value;
}

/* A command by the owner, whose password is empty in a new TPM; its size is filled in when it is sent. */
static struct message command(uint32_t code, bool names_index)
{
    struct message made = {.length = 0};
    put(&made, TPM_ST_SESSIONS, 2);
    put(&made, 0, 4);
    put(&made, code, 4);
    put(&made, TPM_RH_OWNER, 4);
    if (names_index)
        put(&made, NV_INDEX, 4);
    put(&made, 4 + 2 + 1 + 2, 4); /* the session: handle, no nonce, no attributes, no password */
    put(&made, TPM_RS_PW, 4);
    put(&made, 0, 2 + 1 + 2);
    return made;
}

/* Sends a command and puts the answer in its place; returns the TPM's code, or -1 with errno set. */
static int64_t ask(struct message *message)
{
    size_t length = message->length;
    message->length = 2;
    put(message, length, 4);
    int fd = open(TPM, O_RDWR | O_CLOEXEC);
    bool sent = fd >= 0 && write(fd, message->bytes, length) == (ssize_t)length;
    ssize_t got = sent ? read(fd, message->bytes, sizeof message->bytes) : -1;
    int trouble = errno;
    close(fd);
    errno = got >= 0 && got < HEADER ? EPROTO : trouble;
    return got < HEADER ? -1 : (int64_t)get(message, 6, 4);
}

static const char *why(int64_t code)
{
    return code < 0 ? strerror(errno) : "the TPM refused";
}

const char *keep_in_tpm(uint64_t number)
{
    struct message define = command(TPM_CC_NV_DEFINE_SPACE, false);
    put(&define, 0, 2); /* no password for the index */
    put(&define, 4 + 2 + 4 + 2 + 2, 2);
    put(&define, NV_INDEX, 4);
    put(&define, TPM_ALG_SHA256, 2);
    put(&define, NV_ATTRIBUTES, 4);
    put(&define, 0, 2); /* no policy */
    put(&define, sizeof number, 2);
    int64_t code = ask(&define);
    if (code && code != TPM_RC_NV_DEFINED)
        return why(code);

    struct message write = command(TPM_CC_NV_WRITE, true);
    put(&write, sizeof number, 2);
    put(&write, number, sizeof number);
    put(&write, 0, 2);
    code = ask(&write);
    return code ? why(code) : NULL;
}

const char *kept_in_tpm(uint64_t *number)
{
    struct message read = command(TPM_CC_NV_READ, true);
    put(&read, sizeof *number, 2);
    put(&read, 0, 2);
    int64_t code = ask(&read);
    if (code)
        return why(code);
    *number = get(&read, READ_DATA_AT, sizeof *number);
    return NULL;
}
