/* A team of threads that shares the faces of a batch with its caller. Between jobs its threads sleep; nothing spins.
 * Includes mxn.h and system headers only.
 */
#ifndef MXN_TEAM_H
#define MXN_TEAM_H

#include "mxn.h"

/* Works on items [first, first + count) of a job, with the workspace of the thread that it runs on. */
typedef void (*mxn_task)(void *context, mxn_workspace *workspace, ptrdiff_t first, ptrdiff_t count);

/* Runs a task over `count` items, `grain` at a time, on all threads of the team, the caller's included; returns when all
 * are done. A team that is at work for another caller, or that was made before a fork, leaves the whole job to the
 * caller: more threads than cores would only wait for each other. */
void mxn_team_run(mxn_team *team, mxn_task task, void *context, mxn_workspace *workspace, ptrdiff_t count,
                  ptrdiff_t grain);

#endif
