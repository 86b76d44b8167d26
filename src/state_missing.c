/*
 * state_missing.c - there is no state of that key, or none yet at that time: say
 * why.
 *
 * Null would do for whoever asks out of curiosity; but a key that is mistyped
 * would have no state for ever.  Whoever begins something new asks load_state(),
 * which returns the state before the first event.
 */
#include "state_missing.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "scan.h"
#include "state_load.h"

/* How far the log, or the stream, has been looked at. */
static int
detail_of_unknown(const EvsProjection *projection, int64 version)
{
	if (projection->key_kind != EVS_KEY_STREAM)
		return errdetail("No event that it has applied has this key.");
	if (version == 0)
		return errdetail("There is no such stream.");
	return errdetail("The stream is at version " INT64_FORMAT ", but the projection takes none of its events.",
					 version);
}

void
evs_state_unknown(const EvsProjection *projection, text *key, int64 version)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("projection \"%s\" has no state of key \"%s\"",
					projection->name, text_to_cstring(key)),
			 detail_of_unknown(projection, version),
			 errhint("For the state before the first event use evsource.load_state().")));
}

void
evs_state_no_version(EvsStateCall *call, text *key)
{
	EvsScan    *scan = evs_scan_stream(key, 1, PG_INT64_MAX, false, call->snapshot);
	EvsEvent	first;

	evs_scan_as_stored(scan);
	if (!evs_scan_next(scan, &first))
		evs_state_unknown(call->projection, key, 0);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("events of stream \"%s\" that make this state were truncated",
					text_to_cstring(key)),
			 errdetail("Its first event that is left is of version " INT64_FORMAT ", and projection \"%s\" has no state that stands for those before.",
					   first.version, call->projection->name),
			 errhint("Ask for version " INT64_FORMAT " or later.", first.version)));
}

void
evs_state_too_early(EvsStateCall *call, text *key, TimestampTz before, int64 version)
{
	const EvsProjection *projection = call->projection;
	TimestampTz first;

	if (!evs_state_first_time(call->folder, key, call->snapshot, &first))
	{
		if (projection->key_kind != EVS_KEY_GLOBAL)
			evs_state_unknown(projection, key, version);
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("projection \"%s\" has no state", projection->name),
				 errdetail("The log has no event that it takes."),
				 errhint("Append an event that it takes, or see its categories and types in evsource.projections.")));
	}
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("projection \"%s\" has no state of key \"%s\" before %s",
					projection->name, text_to_cstring(key), pstrdup(timestamptz_to_str(before))),
			 errdetail("The earliest of its events occurred at %s.", timestamptz_to_str(first)),
			 errhint("Ask for a later time: what occurred at that instant is not in the state.")));
}
