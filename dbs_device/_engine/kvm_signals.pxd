"""Attention for a thread that is in KVM_RUN: kicks, and the signals that Python code handles. Only `kvm` cimports this.

KVM_RUN returns EINTR if a signal is pending when it enters the guest, or `immediate_exit` is set. Whoever wants a
loop's attention stores a flag and sends a signal, whose handler, on the loop's own thread, sets `immediate_exit`: a
signal that comes between the look at the flag and KVM_RUN is not lost. Only a vCPU's own thread writes its
`immediate_exit`.
"""

from .kvm_abi cimport kvm_run


cdef extern from * nogil:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <linux/kvm.h>

    /* The run of this thread, the innermost if a device of one vCPU runs another. Signal handlers read it: with this
       model of thread-local storage, that never allocates memory. */
    static __thread struct kvm_run *volatile dbs_current_run __attribute__((tls_model("initial-exec")));

    static int dbs_kick_signal;
    static pthread_t dbs_main_thread;
    static struct sigaction dbs_replaced[NSIG];
    static int dbs_replaced_numbers[NSIG], dbs_replaced_count;

    static struct kvm_run *dbs_exchange_run(struct kvm_run *run) {
        struct kvm_run *before = dbs_current_run;
        dbs_current_run = run;
        return before;
    }

    static void dbs_note_main_thread(void) { dbs_main_thread = pthread_self(); }

    static void dbs_attend(void) {
        struct kvm_run *run = dbs_current_run;
        if (run != NULL) {
            ((volatile struct kvm_run *)run)->immediate_exit = 1;
        }
    }

    static void dbs_handle_kick(int number) {
        (void)number;
        dbs_attend();
    }

    /* Python's own handler only sets a flag, which PyErr_CheckSignals looks at on the main thread. It comes first: the
       loop clears `immediate_exit`, then looks at the flag. */
    static void dbs_handle_for_python(int number) {
        int saved = errno;
        dbs_replaced[number].sa_handler(number);
        if (pthread_equal(pthread_self(), dbs_main_thread)) {
            dbs_attend();
        } else {
            pthread_kill(dbs_main_thread, dbs_kick_signal);
        }
        errno = saved;
    }

    static int dbs_handles(int number, void (*handler)(int)) {
        struct sigaction current;
        return sigaction(number, NULL, &current) == 0 && !(current.sa_flags & SA_SIGINFO) &&
               current.sa_handler == handler;
    }

    /* Take the first real-time signal that nobody handles; 0 if there is none. */
    static int dbs_take_kick_signal(void) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = dbs_handle_kick; /* no SA_RESTART: KVM_RUN has to return */
        for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
            if (dbs_handles(number, SIG_DFL) && sigaction(number, &action, NULL) == 0) {
                return dbs_kick_signal = number;
            }
        }
        return 0;
    }

    static void dbs_put_before_python(int number) {
        struct sigaction action;
        if (sigaction(number, NULL, &dbs_replaced[number]) != 0 || dbs_replaced[number].sa_flags & SA_SIGINFO ||
            dbs_replaced[number].sa_handler == dbs_handle_for_python || dbs_replaced[number].sa_handler == SIG_DFL ||
            dbs_replaced[number].sa_handler == SIG_IGN) {
            return;
        }
        action = dbs_replaced[number];
        action.sa_handler = dbs_handle_for_python;
        action.sa_flags &= ~SA_RESTART;
        if (sigaction(number, &action, NULL) == 0) {
            dbs_replaced_numbers[dbs_replaced_count++] = number;
        }
    }

    static void dbs_restore_for_python(void) {
        while (dbs_replaced_count > 0) {
            int number = dbs_replaced_numbers[--dbs_replaced_count];
            if (dbs_handles(number, dbs_handle_for_python)) { /* or else a device has set another */
                sigaction(number, &dbs_replaced[number], NULL);
            }
        }
    }

    /* Let kicks through to this thread; return whether it had blocked them. */
    static int dbs_block_kicks(int block) {
        sigset_t kick, before;
        sigemptyset(&kick);
        sigaddset(&kick, dbs_kick_signal);
        pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &kick, &before);
        return sigismember(&before, dbs_kick_signal) == 1;
    }

    /* What a run needs from the time it starts, for other threads to see under the lock. */
    typedef struct {
        pthread_mutex_t lock;
        pthread_t thread;
        int is_running;
    } dbs_runner;

    static void dbs_runner_init(dbs_runner *runner) {
        pthread_mutex_init(&runner->lock, NULL);
        runner->is_running = 0;
    }

    static void dbs_runner_destroy(dbs_runner *runner) { pthread_mutex_destroy(&runner->lock); }

    static int dbs_runner_start(dbs_runner *runner) {
        pthread_mutex_lock(&runner->lock);
        int was_running = runner->is_running;
        if (!was_running) {
            runner->thread = pthread_self();
            runner->is_running = 1;
        }
        pthread_mutex_unlock(&runner->lock);
        return !was_running;
    }

    static void dbs_runner_end(dbs_runner *runner) {
        pthread_mutex_lock(&runner->lock);
        runner->is_running = 0;
        pthread_mutex_unlock(&runner->lock);
    }

    /* Under the lock, its thread cannot end meanwhile. */
    static void dbs_runner_signal(dbs_runner *runner) {
        pthread_mutex_lock(&runner->lock);
        if (runner->is_running) {
            if (pthread_equal(runner->thread, pthread_self())) {
                dbs_attend();
            } else {
                pthread_kill(runner->thread, dbs_kick_signal);
            }
        }
        pthread_mutex_unlock(&runner->lock);
    }

    #define dbs_flag_load(flag) __atomic_load_n(flag, __ATOMIC_SEQ_CST)
    #define dbs_flag_store(flag, value) __atomic_store_n(flag, value, __ATOMIC_SEQ_CST)
    #define dbs_flag_exchange(flag, value) __atomic_exchange_n(flag, value, __ATOMIC_SEQ_CST)
    #define dbs_set_immediate_exit(run, value) (((volatile struct kvm_run *)(run))->immediate_exit = (value))
    """
    ctypedef struct pthread_t:
        pass
    ctypedef struct dbs_runner:
        pthread_t thread
        int is_running
    void dbs_runner_init(dbs_runner *runner)
    void dbs_runner_destroy(dbs_runner *runner)
    bint dbs_runner_start(dbs_runner *runner)
    void dbs_runner_end(dbs_runner *runner)
    void dbs_runner_signal(dbs_runner *runner)
    kvm_run *dbs_exchange_run(kvm_run *run)
    void dbs_note_main_thread()
    int dbs_kick_signal
    int dbs_take_kick_signal()
    void dbs_put_before_python(int number)
    void dbs_restore_for_python()
    bint dbs_block_kicks(bint block)
    int dbs_flag_load(int *flag)
    void dbs_flag_store(int *flag, int value)
    int dbs_flag_exchange(int *flag, int value)
    void dbs_set_immediate_exit(kvm_run *run, int value)
