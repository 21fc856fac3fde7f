/* A small store of memory blocks for callers that are entered by many threads: take one, use it, give it back. Lock-free;
 * steady use allocates nothing. Includes system headers only.
 */
#ifndef MXN_POOL_H
#define MXN_POOL_H

#include <stdatomic.h>
#include <stddef.h>

enum { MXN_POOL_SLOTS = 16 };

/* All zero is an empty pool. */
typedef struct mxn_pool {
    _Atomic(void *) slot[MXN_POOL_SLOTS];
} mxn_pool;

/* A block from the pool, or NULL when it is empty. */
static inline void *mxn_pool_take(mxn_pool *pool) {
    for (int i = 0; i < MXN_POOL_SLOTS; i++) {
        void *block = atomic_exchange_explicit(&pool->slot[i], NULL, memory_order_acquire);
        if (block) return block;
    }
    return NULL;
}

/* Puts a block into the pool; returns it again when the pool is full, for the caller to free. */
static inline void *mxn_pool_give(mxn_pool *pool, void *block) {
    for (int i = 0; i < MXN_POOL_SLOTS; i++) {
        void *empty = NULL;
        if (atomic_compare_exchange_strong_explicit(&pool->slot[i], &empty, block, memory_order_release,
                                                    memory_order_relaxed))
            return NULL;
    }
    return block;
}

#endif
