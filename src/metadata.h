/*
 * metadata.h - the metadata that a session or transaction adds to its appends.
 */
#ifndef EVS_METADATA_H
#define EVS_METADATA_H

#include "evsource.h"

#include "utils/guc.h"
#include "utils/relcache.h"

/*
 * The metadata to store for an event that came with "given" (NULL: none): the
 * session's defaults, overlaid with what was given; NULL when there is neither.
 * Raises 22023 when either is not a JSON object.
 */
extern Jsonb *evs_metadata_for(Jsonb *given);

/*
 * The same for a row that the current user INSERTs: 42501 when the defaults add to it and the
 * user may insert into the table, but not into this column.
 */
extern Jsonb *evs_metadata_for_row(Relation events, Jsonb *given);

/* The check hook of evsource.metadata: a JSON object, or nothing. */
extern bool evs_metadata_check_setting(char **value, void **extra, GucSource source);

#endif							/* EVS_METADATA_H */
