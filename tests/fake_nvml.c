/* NVIDIA's management library without a driver: one GPU for each word in FAKE_NVML.
 *
 * A word is the GPU's state: "ok", "lost" (it fell off the bus), "mig" (divided by the
 * administrator) or "wsl" (it has no device file).  "unloaded" alone: the driver is not loaded;
 * "hung" alone: it never answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, BAD = 2, NOT_SUPPORTED = 3, NOT_LOADED = 9, LOST = 15 };

static int initialised = 0;

/* Copy the state of one GPU; 0 if there is none of this index. */
static int state_of(unsigned index, char *state) {
    const char *word = getenv("FAKE_NVML");
    while (word && index--) {
        word = strchr(word, ' ');
        word = word ? word + 1 : NULL;
    }
    return word && sscanf(word, "%15s", state) == 1;
}

static int is(void *device, const char *wanted) {
    char state[16];
    return state_of((unsigned)(size_t)device - 1, state) && !strcmp(state, wanted);
}

int nvmlInitWithFlags(unsigned flags) {
    char state[16] = "";
    (void)flags;
    state_of(0, state);
    if (!strcmp(state, "unloaded")) return NOT_LOADED;
    while (!strcmp(state, "hung")) pause();
    initialised++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    return code == LOST ? "GPU is lost" : "an error";
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    char state[16];
    if (!initialised) return UNINITIALIZED;
    for (*count = 0; state_of(*count, state); ++*count) {
        if (!strcmp(state, "unloaded")) return NOT_LOADED;
    }
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    char state[16];
    if (!initialised) return UNINITIALIZED;
    if (!state_of(index, state)) return BAD;
    *device = (void *)(size_t)(index + 1);
    return strcmp(state, "lost") ? SUCCESS : LOST;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-0000-%zu", (size_t)device - 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    (void)device;
    snprintf(name, length, "Fake H100");
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *total_free_used) {
    (void)device;
    total_free_used[0] = total_free_used[1] = 80ULL << 30;
    total_free_used[2] = 0;
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) {
    *minor = (unsigned)(size_t)device - 1;
    return is(device, "wsl") ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    if (!is(device, "mig")) return NOT_SUPPORTED;
    *current = *pending = 1;
    return SUCCESS;
}
