/*
 * async_record.h - put on record what a transaction on an async projection has failed with
 * as a whole.
 */
#ifndef EVS_ASYNC_RECORD_H
#define EVS_ASYNC_RECORD_H

#include "evsource.h"
#include "async.h"

/*
 * suspects: of so many events after pacing->position that were applied one may be to blame;
 * 0: none is.  One is blamed as if its handler had failed, of several it is still to be found:
 * EVS_ASYNC_MORE.  Else the attempts count, unless the error is nobody's fault.  Returns how
 * to go on; pacing->retry_at says when, where it is known.
 *
 * Call in a transaction of its own, which commits.
 */
extern EvsAsyncOutcome evs_async_record(const char *name, int partition, EvsAsyncPacing *pacing,
										ErrorData *error, int suspects);

#endif							/* EVS_ASYNC_RECORD_H */
