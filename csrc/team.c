/* A team of sleeping threads. Calls the workspaces of mxn.c and POSIX threads only. */
#define _POSIX_C_SOURCE 200809L /* pthread_sigmask */
#include "team.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct member {
    mxn_team *team;
    mxn_workspace *workspace;
    pthread_t thread;
} member;

struct mxn_team {
    pid_t process;        /* that made it: threads do not survive a fork */
    pthread_mutex_t turn; /* held by the caller whose job it is */
    pthread_mutex_t lock; /* of all below but `next` */
    pthread_cond_t wake;  /* a job was opened, or the end */
    pthread_cond_t idle;  /* the last member has left the job */
    unsigned job;         /* number of the latest job */
    bool open;            /* it may be joined */
    bool end;
    int working;          /* members at it */
    mxn_task task;
    void *context;
    ptrdiff_t count, grain;
    _Atomic(ptrdiff_t) next; /* the first item that nobody has taken */
    int members;
    member member[]; /* the caller of a job is not among them */
};

static void work(mxn_team *team, mxn_workspace *workspace) {
    ptrdiff_t first;
    while ((first = atomic_fetch_add_explicit(&team->next, team->grain, memory_order_relaxed)) < team->count) {
        const ptrdiff_t rest = team->count - first;
        team->task(team->context, workspace, first, rest < team->grain ? rest : team->grain);
    }
}

static void *live(void *argument) {
    const member *self = argument;
    mxn_team *team = self->team;
    unsigned seen = 0;
    pthread_mutex_lock(&team->lock);
    while (!team->end) {
        /* Who wakes up late finds the job closed and sleeps on: nobody waits for a thread that has not begun. */
        if (team->open && team->job != seen) {
            seen = team->job;
            team->working++;
            pthread_mutex_unlock(&team->lock);
            work(team, self->workspace);
            pthread_mutex_lock(&team->lock);
            if (--team->working == 0) pthread_cond_signal(&team->idle);
        } else {
            pthread_cond_wait(&team->wake, &team->lock);
        }
    }
    pthread_mutex_unlock(&team->lock);
    return NULL;
}

void mxn_team_run(mxn_team *team, mxn_task task, void *context, mxn_workspace *workspace, ptrdiff_t count,
                  ptrdiff_t grain) {
    if (count <= grain || getpid() != team->process || pthread_mutex_trylock(&team->turn) != 0) {
        task(context, workspace, 0, count);
        return;
    }
    pthread_mutex_lock(&team->lock);
    team->task = task;
    team->context = context;
    team->count = count;
    team->grain = grain;
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    team->job++;
    team->open = true;
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);

    work(team, workspace);

    pthread_mutex_lock(&team->lock);
    team->open = false;
    while (team->working > 0) pthread_cond_wait(&team->idle, &team->lock);
    pthread_mutex_unlock(&team->lock);
    pthread_mutex_unlock(&team->turn);
}

/* Signals are the business of the program's own threads. */
static int start(member *self) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&self->thread, NULL, live, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

mxn_status mxn_team_new(mxn_team **out, int threads) {
    if (threads < 1 || threads > MXN_THREADS_MAX) return MXN_ERROR_ARGUMENT;
    mxn_team *team = calloc(1, sizeof *team + (size_t)(threads - 1) * sizeof(member));
    if (!team) return MXN_ERROR_MEMORY;
    team->process = getpid();
    pthread_mutex_init(&team->turn, NULL);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wake, NULL);
    pthread_cond_init(&team->idle, NULL);
    for (; team->members < threads - 1; team->members++) {
        member *self = &team->member[team->members];
        self->team = team;
        self->workspace = mxn_workspace_new();
        if (!self->workspace || start(self) != 0) {
            mxn_workspace_free(self->workspace);
            mxn_team_free(team);
            return MXN_ERROR_MEMORY;
        }
    }
    *out = team;
    return MXN_OK;
}

void mxn_team_free(mxn_team *team) {
    if (!team) return;
    const bool alive = getpid() == team->process;
    if (alive) {
        pthread_mutex_lock(&team->lock);
        team->end = true;
        pthread_cond_broadcast(&team->wake);
        pthread_mutex_unlock(&team->lock);
    }
    for (int i = 0; i < team->members; i++) {
        if (alive) pthread_join(team->member[i].thread, NULL);
        mxn_workspace_free(team->member[i].workspace);
    }
    if (alive) { /* in a forked child a lock may be held by a thread that is no more */
        pthread_cond_destroy(&team->idle);
        pthread_cond_destroy(&team->wake);
        pthread_mutex_destroy(&team->lock);
        pthread_mutex_destroy(&team->turn);
    }
    free(team);
}
