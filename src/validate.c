/*
 * validate.c - what every event must satisfy, whichever way it comes in.
 */
#include "evsource.h"

#include "validate.h"

static void
check_name(const text *name, const char *what)
{
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what),
				 errhint("Every event has a stream and a type.")));
	if (VARSIZE_ANY_EXHDR(name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("Every event has a stream and a type.")));
	if (VARSIZE_ANY_EXHDR(name) > EVS_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", what),
				 errdetail("It has %d bytes, at most %d are allowed.",
						   (int) VARSIZE_ANY_EXHDR(name), EVS_MAX_NAME),
				 errhint("Keep names short and put what they would say into the event's data.")));
}

void
evs_check_stream(const text *stream)
{
	check_name(stream, "stream");
}

void
evs_check_type(const text *type)
{
	check_name(type, "type of an event");
}

void
evs_check_data(bool isnull)
{
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("data of an event must not be null"),
				 errhint("Leave it out for {}, or pass the JSON value 'null'.")));
}

void
evs_check_metadata(Jsonb *metadata)
{
	if (metadata != NULL && !JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata of an event must be a JSON object"),
				 errdetail("It is %s.", JB_ROOT_IS_SCALAR(metadata) ? "a scalar" : "an array"),
				 errhint("Put the value under a key, or into the event's data.")));
}

int16
evs_check_schema_version(int version)
{
	if (version < 1 || version > PG_INT16_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema version of an event must be between 1 and %d", PG_INT16_MAX),
				 errdetail("It is %d.", version),
				 errhint("Leave it out for the newest version of the event's type.")));
	return (int16) version;
}
