/* One number that outlives the guest's disk: in the firmware's NVRAM, or in the TPM. Null, or what went wrong. */
#include <stdint.h>

const char *keep_in_nvram(uint64_t number);
const char *kept_in_nvram(uint64_t *number);
const char *keep_in_tpm(uint64_t number);
const char *kept_in_tpm(uint64_t *number);
