/* A list of kernel calls, made one after another without the caller's language in between. */
#include "kernels.h"

#define MOST_ARGUMENTS 18

typedef union {
    void *p;
    long n;
    double d;
} Argument;

typedef struct {
    const void *kernel; /* its address */
    Argument arguments[MOST_ARGUMENTS];
} Call;

static void call(const void *kernel, const Argument *a) {
    if (kernel == (void *)llmos_linear)
        llmos_linear(a[0].p, a[1].p, a[2].p, a[3].p, a[4].p, a[5].n, a[6].n, a[7].n);
    else if (kernel == (void *)llmos_rms_norm)
        llmos_rms_norm(a[0].p, a[1].p, a[2].p, a[3].n, a[4].n, a[5].d);
    else if (kernel == (void *)llmos_rotate)
        llmos_rotate(a[0].p, a[1].n, a[2].n, a[3].p, a[4].p, a[5].n, a[6].n, a[7].n);
    else if (kernel == (void *)llmos_write)
        llmos_write(a[0].p, a[1].p, a[2].n, a[3].n, a[4].n, a[5].n, a[6].p, a[7].n, a[8].n,
                    a[9].n, a[10].n, a[11].p, a[12].p);
    else if (kernel == (void *)llmos_attend)
        llmos_attend(a[0].p, a[1].n, a[2].n, a[3].p, a[4].p, a[5].p, a[6].n, a[7].n, a[8].n,
                     a[9].n, a[10].n, a[11].p, a[12].p, a[13].p, a[14].p, a[15].d, a[16].d,
                     a[17].n);
    else if (kernel == (void *)llmos_gate)
        llmos_gate(a[0].p, a[1].p, a[2].p, a[3].n, a[4].d, a[5].d);
    else if (kernel == (void *)llmos_add)
        llmos_add(a[0].p, a[1].p, a[2].p, a[3].n);
    else
        abort(); /* a kernel without a line here */
}

void llmos_replay(const Call *calls, long num_calls) {
    for (long i = 0; i < num_calls; i++) call(calls[i].kernel, calls[i].arguments);
}
