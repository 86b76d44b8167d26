/*
 * types_define.c - define and drop versions of event types.
 *
 * A definition is made behind the barrier: no append is under way that does not
 * know it, so from its commit on every event is stored in the newest version.
 * How stored events are read must not change under them: a version that events
 * were stored in, or are read through, is not defined anew.
 *
 * An upcaster changes what projections would have been told.  Where events are
 * stored that it changes, the projections that have applied them are marked
 * stale, and snapshots of folds that read their type in their category are not used
 * any more (evs_types_fingerprint): it is written down which these are, since the
 * projections may read something else at the moment.  Events of an earlier version
 * that come later are read through it from the beginning: they count when it goes.
 *
 * Locks, in this order: the table of event types, so that definitions exclude
 * each other; the names of the projections that may become stale; the barrier.
 */
#include "types_survey.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonpath.h"

#include "catalog.h"
#include "barrier.h"
#include "parameters.h"
#include "query.h"
#include "registry.h"
#include "resolve.h"
#include "rights.h"
#include "types.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_define_event_type);
PG_FUNCTION_INFO_V1(evsource_drop_event_type);

/* ---- the tables ---- */

static EvsQuery delete_version = {
	"delete from evsource.event_types where type = $1 and version = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_DELETE
};

static EvsQuery insert_version = {
	"insert into evsource.event_types"
	" (type, version, schema_path, validator, upcaster, owner, search_path, changes_stored)"
	" values ($1, $2, $3, $4, $5, $6, $7, $8)",
	8, {TEXTOID, INT4OID, JSONPATHOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID},
	SPI_OK_INSERT
};

static EvsQuery find_readers = {
	"select p.projection from evsource.projections p"
	" where p.types is null or $1 = any (p.types) order by 1",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* Nobody else changes or rebuilds the projections that may become stale. */
static void
lock_readers(const text *type)
{
	Datum		values[] = {PointerGetDatum(type)};
	List	   *names = evs_query_texts(&find_readers, values, NULL);
	ListCell   *cell;

	foreach(cell, names)
		evs_registry_lock(lfirst(cell));
}

static void
store_version(const text *type, const EvsTypeVersion *version)
{
	Datum		values[8] = {
		PointerGetDatum(type), Int32GetDatum(version->version),
		PointerGetDatum(version->schema_path)
	};
	char		nulls[] = "        ";

	if (version->schema_path == NULL)
		nulls[2] = 'n';
	if (version->validator != NULL)
		values[3] = CStringGetTextDatum(version->validator);
	else
		nulls[3] = 'n';
	if (version->upcaster != NULL)
		values[4] = CStringGetTextDatum(version->upcaster);
	else
		nulls[4] = 'n';
	values[5] = CStringGetTextDatum(version->owner);
	values[6] = CStringGetTextDatum(version->search_path);
	values[7] = BoolGetDatum(version->changes_stored);
	evs_query_run(&insert_version, values, nulls);
}

static void
forget_version(const text *type, int version)
{
	Datum		values[] = {PointerGetDatum(type), Int32GetDatum(version)};

	evs_query_run(&delete_version, values, NULL);
}

/* ---- rights ---- */

/* Who defines a type goes on defining it, or those who have that role's rights. */
static void
check_rights(const EvsEventType *type)
{
	for (int v = 1; type != NULL && v <= type->newest; v++)
	{
		const EvsTypeVersion *version = type->versions[v];

		if (version != NULL && !evs_has_rights_of(version->owner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of event type \"%s\"", text_to_cstring(type->type)),
					 errdetail("Version %d belongs to role \"%s\".", v, version->owner),
					 errhint("Have that role or a superuser do it.")));
	}
}

/* What the functions will be shown, their owner must be allowed to read. */
static void
check_may_read(void)
{
	if (!evs_may_read_all())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to define an event type"),
				 errdetail("Its functions run as role \"%s\", which may not select all rows of evsource.events.",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("Grant SELECT on evsource.events to that role; under row security, give it BYPASSRLS.")));
}

/* ---- define ---- */

static text *
type_argument(FunctionCallInfo fcinfo)
{
	text	   *type = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);

	evs_check_type(type);
	return type;
}

static int
version_argument(FunctionCallInfo fcinfo)
{
	int32		version;

	evs_argument_require(fcinfo, 1, "version");
	version = PG_GETARG_INT32(1);
	if (version < 1 || version > EVS_MAX_SCHEMA_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version of an event type must be between 1 and %d", EVS_MAX_SCHEMA_VERSION),
				 errdetail("It is %d.", version),
				 errhint("Number the versions of a type from 1.")));
	return version;
}

static void *
path_argument(FunctionCallInfo fcinfo, const text *type)
{
	void	   *path;
	char	   *variable;

	if (PG_ARGISNULL(2))
		return NULL;
	path = PG_GETARG_JSONPATH_P_COPY(2);
	variable = evs_type_path_variable(path);
	if (variable != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema_path of event type \"%s\" must not have variables",
						text_to_cstring(type)),
				 errdetail("There is no value for %s.", variable),
				 errhint("Write the value into the path, or use a validator.")));
	return path;
}

static char *
function_argument(FunctionCallInfo fcinfo, int argument, EvsFunctionUse use)
{
	char	   *signature;

	if (PG_ARGISNULL(argument))
		return NULL;
	signature = evs_resolve_function(text_to_cstring(PG_GETARG_TEXT_PP(argument)), use);
	evs_resolve_check_function(signature, GetUserNameFromId(GetUserId(), false), "an event type");
	return signature;
}

static bool
same_string(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool
same_path(const void *a, const void *b)
{
	return a == b || (a != NULL && b != NULL && VARSIZE(a) == VARSIZE(b) &&
					  memcmp(a, b, VARSIZE(a)) == 0);
}

static bool
same_version(const EvsTypeVersion *a, const EvsTypeVersion *b)
{
	return same_path(a->schema_path, b->schema_path) &&
		same_string(a->validator, b->validator) && same_string(a->upcaster, b->upcaster);
}

/* Versions follow each other; the first may be 2: of what was stored until now. */
static void
check_gap(const text *type, const EvsEventType *defined, int version)
{
	int			newest = defined ? defined->newest : 1;

	if (version > newest + 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version %d of event type \"%s\" would leave a gap",
						version, text_to_cstring(type)),
				 defined ? errdetail("Its newest version is %d.", newest) :
				 errdetail("It has not been defined yet: its events are of version 1."),
				 errhint("Define version %d first.", newest + 1)));
}

/*
 * In which versions must no event be stored, that this may take the place of
 * what is defined?  A rule only as long as no event was stored by it; an upcaster
 * also not once events are read through it.
 */
static void
survey_redefinition(EvsTypeSurvey *survey, const EvsTypeVersion *old, const EvsTypeVersion *new)
{
	int			version = new->version;
	bool		same_rule = old == NULL ? new->schema_path == NULL && new->validator == NULL :
		same_path(old->schema_path, new->schema_path) && same_string(old->validator, new->validator);
	bool		new_way = old != NULL && old->upcaster != NULL &&
		!same_string(old->upcaster, new->upcaster);

	survey->first = new_way ? 1 : version;
	survey->last = same_rule ? version - 1 : version;
}

static void
refuse_redefinition(const text *type, int version)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("version %d of event type \"%s\" cannot be defined again",
					version, text_to_cstring(type)),
			 errdetail("Events are stored in that version, or are read through it."),
			 errhint("Define version %d, or correct the functions by CREATE OR REPLACE FUNCTION.",
					 version + 1)));
}

static void
refuse_missing_step(const text *type, int version)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("version %d of event type \"%s\" needs an upcaster",
					version, text_to_cstring(type)),
			 errdetail("Events of earlier versions are stored, which could not be read any more."),
			 errhint("Give a function that makes data of version %d from data of version %d.",
					 version, version - 1)));
}

/*
 * evsource.define_event_type(type text, version integer, schema_path jsonpath,
 *		validator text, upcaster text) returns void
 *
 * Errors: 22023 for a version that leaves a gap, or an upcaster to version 1;
 * 55000 when stored events would be read otherwise or not at all; 42883, 42P13,
 * 42725 for functions; 42501; 25000 under REPEATABLE READ.
 */
Datum
evsource_define_event_type(PG_FUNCTION_ARGS)
{
	text	   *type = type_argument(fcinfo);
	EvsTypeVersion new = {.version = version_argument(fcinfo)};
	EvsEventType *defined;
	EvsTypeVersion *old;
	EvsTypeSurvey survey = {.type = type, .first = 1, .below = new.version};

	evs_require_read_committed("define an event type");
	new.schema_path = path_argument(fcinfo, type);
	new.validator = function_argument(fcinfo, 3, EVS_USE_VALIDATOR);
	new.upcaster = function_argument(fcinfo, 4, EVS_USE_UPCASTER);
	new.owner = GetUserNameFromId(GetUserId(), false);
	new.search_path = evs_resolve_search_path();
	if (new.version == 1 && new.upcaster != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version 1 of an event type has no upcaster"),
				 errdetail("An upcaster brings data of the version before to this one."),
				 errhint("What was stored until now is version 1; its successor is version 2.")));
	if (new.validator != NULL || new.upcaster != NULL)
		check_may_read();

	LockRelationOid(evs_catalog()->event_types, ShareRowExclusiveLock);
	defined = evs_types_find(type);
	check_rights(defined);
	check_gap(type, defined, new.version);
	old = defined && new.version <= defined->newest ? defined->versions[new.version] : NULL;
	if (old != NULL && same_version(old, &new))
	{
		/* whose functions can no longer run gets a new owner */
		if (!OidIsValid(get_role_oid(old->owner, true)))
		{
			new.changes_stored = old->changes_stored;
			forget_version(type, new.version);
			store_version(type, &new);
		}
		PG_RETURN_VOID();
	}

	if (new.upcaster != NULL)
		lock_readers(type);
	survey.changes = new.upcaster != NULL &&
		!(old != NULL && same_string(old->upcaster, new.upcaster));
	if (defined != NULL && new.version <= defined->newest)
		survey_redefinition(&survey, old, &new);
	evs_type_surveys(&survey, 1);
	if (survey.found)
		refuse_redefinition(type, new.version);

	/* what is stored and not yet of this version, will it be read? */
	if (survey.found_below && new.upcaster == NULL)
		refuse_missing_step(type, new.version);
	new.changes_stored = survey.found_below;

	forget_version(type, new.version);
	evs_type_note_changes(&survey);
	store_version(type, &new);
	PG_RETURN_VOID();
}

/* ---- drop ---- */

static void
check_droppable(const EvsEventType *defined, int version)
{
	char	   *name = text_to_cstring(defined->type);

	if (version > defined->newest || version < 1 || defined->versions[version] == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("event type \"%s\" has no version %d to drop", name, version),
				 errdetail("Its newest version is %d.", defined->newest),
				 errhint("See evsource.event_types for its versions.")));
	if (version < defined->newest)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("version %d of event type \"%s\" is not the newest", version, name),
				 errdetail("Its newest version is %d.", defined->newest),
				 errhint("Drop the newest version first.")));
}

static EvsTypeSurvey
survey_drop(const EvsEventType *defined, int version)
{
	const EvsTypeVersion *dropped = defined->versions[version];
	EvsTypeSurvey survey = {
		.type = defined->type,
		/* in version 1 are also those that were stored before anything was defined */
		.first = version,
		.last = version > 1 ? EVS_MAX_SCHEMA_VERSION : 0,
		.below = version,
		.changes = dropped != NULL && dropped->upcaster != NULL
	};

	return survey;
}

static void
drop_version(const EvsEventType *defined, int version, const EvsTypeSurvey *survey)
{
	if (survey->found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("version %d of event type \"%s\" cannot be dropped",
						version, text_to_cstring(defined->type)),
				 errdetail("Events are stored in that version."),
				 errhint("Define version %d, which may be like the version before this one.", version + 1)));
	evs_type_note_changes(survey);
	forget_version(defined->type, version);
}

/*
 * evsource.drop_event_type(type text, version integer) returns void: the newest
 * version, or all of them.
 *
 * Errors: 42704 when it is not defined, 55000 when it is not the newest or
 * events are stored in it, 42501, 25000.
 */
Datum
evsource_drop_event_type(PG_FUNCTION_ARGS)
{
	text	   *type = type_argument(fcinfo);
	EvsEventType *defined;
	int			first = 1;
	EvsTypeSurvey	   *surveys;

	evs_require_read_committed("drop an event type");
	LockRelationOid(evs_catalog()->event_types, ShareRowExclusiveLock);
	defined = evs_types_find(type);
	if (defined == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("event type \"%s\" is not defined", text_to_cstring(type)),
				 errhint("See evsource.event_types for those that are.")));
	check_rights(defined);
	if (!PG_ARGISNULL(1))
	{
		first = PG_GETARG_INT32(1);
		check_droppable(defined, first);
	}

	lock_readers(type);
	surveys = palloc((defined->newest - first + 1) * sizeof(EvsTypeSurvey));
	for (int version = first; version <= defined->newest; version++)
		surveys[version - first] = survey_drop(defined, version);
	evs_type_surveys(surveys, defined->newest - first + 1);
	for (int version = defined->newest; version >= first; version--)
		drop_version(defined, version, &surveys[version - first]);
	PG_RETURN_VOID();
}
