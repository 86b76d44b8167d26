/*
 * settings.c - every setting of evsource, alphabetically.
 */
#include "evsource.h"

#include "settings.h"
#include "state_cache.h"

bool		evs_allow_drop = false;
int			evs_max_dispatch_depth = 16;
char	   *evs_metadata = NULL;

void
evs_settings_init(void)
{
	DefineCustomBoolVariable("evsource.allow_drop",
							 "Allows DROP EXTENSION evsource while the log holds events.",
							 NULL,
							 &evs_allow_drop,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_dispatch_depth",
							"How deep handlers that append may feed each other.",
							"What a client appends is at depth 0, what its handlers append at depth 1.",
							&evs_max_dispatch_depth,
							16, 0, 1000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("evsource.metadata",
							   "Metadata merged under that of every append, as the text of a JSON object.",
							   "Empty means none. See also evsource.set_metadata().",
							   &evs_metadata,
							   "",
							   PGC_USERSET, 0,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.state_cache_size",
							"Memory of each session for states of fold projections.",
							"The states used last are kept. 0 keeps none.",
							&evs_state_cache_size,
							4096, 0, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("evsource");
}
