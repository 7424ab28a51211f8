/* The floating-point control word for the duration of a tile: round to nearest even, subnormals kept, no
 * traps.
 *
 * The caller's thread may have been set up otherwise: a library built with fast-math changes it when loaded.
 */
#ifndef KVC_FPENV_H
#define KVC_FPENV_H

/* For the function between enter and leave: out of line, so that no arithmetic of it can move over them. (May
 * be unused, since headers have some.) */
#define KVC_TILE_FUNCTION __attribute__((noinline, unused))

#if defined(__SSE2__)
#include <immintrin.h>

#define KVC_MXCSR_DEFAULT 0x1F80u

struct kvc_fpenv {
	unsigned saved;
};

static inline void kvc_fpenv_enter(struct kvc_fpenv *env)
{
	env->saved = _mm_getcsr();
	_mm_setcsr(KVC_MXCSR_DEFAULT);
}

static inline void kvc_fpenv_leave(const struct kvc_fpenv *env)
{
	_mm_setcsr(env->saved);
}
#else
#include <fenv.h>

struct kvc_fpenv {
	fenv_t saved;
};

static inline void kvc_fpenv_enter(struct kvc_fpenv *env)
{
	fegetenv(&env->saved);
	fesetenv(FE_DFL_ENV);
}

static inline void kvc_fpenv_leave(const struct kvc_fpenv *env)
{
	fesetenv(&env->saved);
}
#endif

#endif
