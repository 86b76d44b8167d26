/*
 * capture_json.h - values of any type as JSON, exactly, and the same whatever
 * the session's settings are.
 */
#ifndef EVS_CAPTURE_JSON_H
#define EVS_CAPTURE_JSON_H

#include "evsource.h"

typedef struct EvsJsonForm EvsJsonForm;

/* What has been set meanwhile; zero at first. */
typedef struct EvsJsonSettings
{
	int			nest_level;		/* 0: nothing */
} EvsJsonSettings;

/* How values of the type are written; in CurrentMemoryContext. */
extern EvsJsonForm *evs_json_form(Oid type);

/* Is the value of this form always a string, a number or a boolean? */
extern bool evs_json_is_scalar(const EvsJsonForm *form);

/*
 * The value, which may point into the datum.  End with evs_json_end() before
 * anything of somebody else's runs.
 */
extern void evs_json_value(EvsJsonForm *form, Datum datum, EvsJsonSettings *settings,
						   JsonbValue *value);
extern void evs_json_end(EvsJsonSettings *settings);

#endif							/* EVS_CAPTURE_JSON_H */
