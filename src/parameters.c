/*
 * parameters.c - what an SQL call says, of a projection above all, as it was said.
 *
 * What may be left out is null, or has a flag beside it.  What it means, and
 * whether it makes sense, is definition.c's.
 */
#include "evsource.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "parameters.h"

/* Longest name in bytes: as long as an identifier. */
#define MAX_NAME	(NAMEDATALEN - 1)

char *
evs_argument_text(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

bool
evs_argument_bool(FunctionCallInfo fcinfo, int argument, bool if_null)
{
	return PG_ARGISNULL(argument) ? if_null : PG_GETARG_BOOL(argument);
}

void
evs_argument_require(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name),
				 errhint("Pass a value.")));
}

char *
evs_argument_name_of(FunctionCallInfo fcinfo, int argument, const char *what)
{
	char	   *name;

	evs_argument_require(fcinfo, argument, what);
	name = evs_argument_text(fcinfo, argument);
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("Choose a name.")));
	if (strlen(name) > MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of %s is too long", what),
				 errdetail("It has %zu bytes, at most %d are allowed.", strlen(name), MAX_NAME),
				 errhint("Choose a shorter name.")));
	return name;
}

char *
evs_argument_name(FunctionCallInfo fcinfo, int argument)
{
	return evs_argument_name_of(fcinfo, argument, "projection");
}

double
evs_interval_length(const Interval *interval)
{
	return interval->time / 1000.0 + (interval->day + interval->month * 30.0) * 86400000.0;
}

int
evs_parameter_word(const char *parameter, const char *value,
				   const char *const *words, int count)
{
	StringInfoData list;

	for (int i = 0; i < count; i++)
		if (strcmp(value, words[i]) == 0)
			return i;

	initStringInfo(&list);
	for (int i = 0; i < count; i++)
		appendStringInfo(&list, "%s'%s'",
						 i == 0 ? "" : i == count - 1 ? " or " : ", ", words[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for parameter \"%s\": \"%s\"", parameter, value),
			 errhint("Use %s.", list.data)));
	return -1;
}

void
evs_parameter_check_categories(const EvsFilter *filter)
{
	for (int i = 0; i < filter->ncategories; i++)
	{
		char	   *category = text_to_cstring(filter->categories[i]);

		if (strchr(category, '-') != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("no stream has the category \"%s\"", category),
					 errhint("A category is the part of a stream's name before the first \"-\".")));
	}
}

/* One argument each, if the function has it and it is not null. */
static void
read_text(FunctionCallInfo fcinfo, int argument, char **value)
{
	if (argument != 0 && !PG_ARGISNULL(argument))
		*value = text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

static void
read_array(FunctionCallInfo fcinfo, int argument, ArrayType **value)
{
	if (argument != 0 && !PG_ARGISNULL(argument))
		*value = PG_GETARG_ARRAYTYPE_P_COPY(argument);
}

static void
read_integer(FunctionCallInfo fcinfo, int argument, bool *given, int *value)
{
	*given = argument != 0 && !PG_ARGISNULL(argument);
	if (*given)
		*value = PG_GETARG_INT32(argument);
}

static void
read_bool(FunctionCallInfo fcinfo, int argument, bool *given, bool *value)
{
	*given = argument != 0 && !PG_ARGISNULL(argument);
	if (*given)
		*value = PG_GETARG_BOOL(argument);
}

void
evs_parameters_read(FunctionCallInfo fcinfo, const int *positions,
					EvsParameters *parameters)
{
	memset(parameters, 0, sizeof(EvsParameters));

	read_text(fcinfo, positions[EVS_PARAMETER_HANDLER], &parameters->handler);
	read_text(fcinfo, positions[EVS_PARAMETER_QUERY], &parameters->query);
	read_text(fcinfo, positions[EVS_PARAMETER_MODE], &parameters->mode);
	read_array(fcinfo, positions[EVS_PARAMETER_CATEGORIES], &parameters->categories);
	read_array(fcinfo, positions[EVS_PARAMETER_TYPES], &parameters->types);
	read_text(fcinfo, positions[EVS_PARAMETER_KEY], &parameters->key);
	read_integer(fcinfo, positions[EVS_PARAMETER_STATE_VERSION],
				 &parameters->has_state_version, &parameters->state_version);
	read_array(fcinfo, positions[EVS_PARAMETER_TABLES], &parameters->tables);
	read_text(fcinfo, positions[EVS_PARAMETER_ON_RESET], &parameters->on_reset);
	read_text(fcinfo, positions[EVS_PARAMETER_ON_ERROR], &parameters->on_error);
	read_text(fcinfo, positions[EVS_PARAMETER_OWNER], &parameters->owner);
	read_text(fcinfo, positions[EVS_PARAMETER_SNAPSHOTS], &parameters->snapshots);
	read_integer(fcinfo, positions[EVS_PARAMETER_SNAPSHOT_EVERY],
				 &parameters->has_snapshot_every, &parameters->snapshot_every);
	read_bool(fcinfo, positions[EVS_PARAMETER_SNAPSHOT_AFTER_BATCH],
			  &parameters->has_snapshot_after_batch, &parameters->snapshot_after_batch);
	read_bool(fcinfo, positions[EVS_PARAMETER_RESTORE_FROM_SNAPSHOT],
			  &parameters->has_restore_from_snapshot, &parameters->restore_from_snapshot);
	read_text(fcinfo, positions[EVS_PARAMETER_IS_COMPATIBLE], &parameters->is_compatible);
	read_text(fcinfo, positions[EVS_PARAMETER_MIGRATE_STATE], &parameters->migrate_state);
	read_bool(fcinfo, positions[EVS_PARAMETER_NOTIFY],
			  &parameters->has_notify, &parameters->notify);
	read_array(fcinfo, positions[EVS_PARAMETER_DEFAULTS], &parameters->defaults);
	read_integer(fcinfo, positions[EVS_PARAMETER_KEEP_SNAPSHOTS],
				 &parameters->has_keep_snapshots, &parameters->keep_snapshots);
	read_array(fcinfo, positions[EVS_PARAMETER_PATH], &parameters->path);
	read_integer(fcinfo, positions[EVS_PARAMETER_PARTITIONS],
				 &parameters->has_partitions, &parameters->partitions);
}
