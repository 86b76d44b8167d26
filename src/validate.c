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
