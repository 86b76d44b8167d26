/*
 * settings.c - every setting of evsource, alphabetically.
 */
#include "evsource.h"

#include "settings.h"

bool		evs_allow_drop = false;
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

	DefineCustomStringVariable("evsource.metadata",
							   "Metadata merged under that of every append, as the text of a JSON object.",
							   "Empty means none. See also evsource.set_metadata().",
							   &evs_metadata,
							   "",
							   PGC_USERSET, 0,
							   NULL, NULL, NULL);

	MarkGUCPrefixReserved("evsource");
}
