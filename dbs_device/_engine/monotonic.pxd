"""A clock that takes half the time of the system's, for a time with each recorded access."""

from libc.stdint cimport uint64_t


cdef extern from * nogil:
    """
    #ifndef DBS_DEVICE_MONOTONIC
    #define DBS_DEVICE_MONOTONIC
    #include <stdint.h>

    #ifdef _WIN32
    #include <windows.h>
    static inline uint64_t dbs_system_ns(void) {
        LARGE_INTEGER ticks, frequency;
        QueryPerformanceCounter(&ticks);
        QueryPerformanceFrequency(&frequency);
        return (uint64_t)(ticks.QuadPart / frequency.QuadPart) * 1000000000u +
               (uint64_t)(ticks.QuadPart % frequency.QuadPart) * 1000000000u / (uint64_t)frequency.QuadPart;
    }
    #else
    #include <time.h>
    static inline uint64_t dbs_system_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    #endif

    /* On x86-64, the time-stamp counter interpolates for a millisecond after a reading of the system's clock, if its
       rate was the same in the two milliseconds before. So a counter that stands still, jumps or changes its rate does
       harm for no longer than that. Callers hold a lock. */
    typedef struct {
        uint64_t start;    /* of the system's clock */
        uint64_t anchor;   /* nanoseconds at the last reading of the system's clock */
        uint64_t ticks;    /* of the counter then */
        uint64_t window;   /* ticks from then on for which the rate is used */
        uint64_t rate;     /* 2^32 nanoseconds a tick, or 0 */
        uint64_t latest;   /* what was returned last */
    } dbs_clock;

    #define DBS_CLOCK_WINDOW 1000000u /* nanoseconds */

    static inline void dbs_clock_start(dbs_clock *clock) {
        dbs_clock zero = {0};
        *clock = zero;
        clock->start = dbs_system_ns();
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    static inline uint64_t dbs_clock_read(dbs_clock *clock, uint64_t ticks, uint64_t elapsed) {
        uint64_t now = dbs_system_ns() - clock->start, passed = now - clock->anchor, rate = 0, change;
        if (clock->ticks != 0 && passed < DBS_CLOCK_WINDOW) {
            return now; /* too early for a new rate */
        }
        if (clock->ticks != 0 && passed < 4000u * DBS_CLOCK_WINDOW && elapsed != 0) {
            rate = (passed << 32) / elapsed;
        }
        change = rate > clock->rate ? rate - clock->rate : clock->rate - rate;
        clock->window = rate != 0 && change <= rate >> 6 ? ((uint64_t)DBS_CLOCK_WINDOW << 32) / rate : 0;
        clock->rate = rate;
        clock->anchor = now;
        clock->ticks = ticks;
        return now;
    }
    #endif

    /* Nanoseconds since the start, never fewer than before. */
    static inline uint64_t dbs_clock_ns(dbs_clock *clock) {
        uint64_t now;
    #if defined(__x86_64__) && defined(__GNUC__)
        uint64_t ticks = __builtin_ia32_rdtsc(), elapsed = ticks - clock->ticks;
        if (elapsed < clock->window) {
            now = clock->anchor + (elapsed * clock->rate >> 32);
        } else {
            now = dbs_clock_read(clock, ticks, elapsed);
        }
    #else
        now = dbs_system_ns() - clock->start;
    #endif
        if (now > clock->latest) {
            clock->latest = now;
        }
        return clock->latest;
    }
    #endif
    """
    ctypedef struct dbs_clock:
        pass
    void dbs_clock_start(dbs_clock *clock) noexcept
    uint64_t dbs_clock_ns(dbs_clock *clock) noexcept
