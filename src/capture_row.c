/*
 * capture_row.c - rows of a captured table as events.
 *
 *	OrderInserted	{"new": row}
 *	OrderUpdated	{"new": row, "old": row, "changed": [names of columns]}
 *	OrderDeleted	{"old": row}
 *	OrderTruncated	{"table": name}
 *
 * When both rows of an update do not fit into a jsonb, "old" has only what changed, and
 * the key.
 *
 * A row is an object with every captured column; NULL is null.  A jsonb value
 * that is the JSON null would look the same: the columns where it is one are
 * listed under "new_json_null" and "old_json_null", which most events do not have.
 */
#include "capture.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "resolve.h"
#include "validate.h"

/* of a name that is too long, in bytes */
#define MOST_SHOWN		60

/* A row, taken apart: a value for each captured column. */
typedef struct Row
{
	JsonbValue *values;
	int			json_nulls;		/* values that are null without being NULL */
	bool	   *is_json_null;
} Row;

/* Whose value is converted: the statement's user may know nothing of it. */
typedef struct Place
{
	EvsCapturePlan *plan;
	int			column;
} Place;

static void
name_column(void *arg)
{
	const Place *place = arg;

	errcontext("capturing column \"%s\" of table \"%s\"",
			   place->plan->columns[place->column].name, get_rel_name(place->plan->relid));
}

static void
take_value(EvsCapturePlan *plan, TupleTableSlot *slot, int i, EvsJsonSettings *settings, Row *row)
{
	EvsCaptureColumn *column = &plan->columns[i];
	int			attribute = column->number - 1;
	Place		place = {plan, i};
	ErrorContextCallback callback = {error_context_stack, name_column, &place};

	row->is_json_null[i] = false;
	if (slot->tts_isnull[attribute])
	{
		row->values[i].type = jbvNull;
		return;
	}
	error_context_stack = &callback;
	evs_json_value(column->form, slot->tts_values[attribute], settings, &row->values[i]);
	error_context_stack = callback.previous;
	if (row->values[i].type == jbvNull)
	{
		row->is_json_null[i] = true;
		row->json_nulls++;
	}
}

static void
prepare_row(EvsCapturePlan *plan, Row *row)
{
	row->values = palloc(Max(plan->ncolumns, 1) * sizeof(JsonbValue));
	row->is_json_null = palloc(Max(plan->ncolumns, 1) * sizeof(bool));
	row->json_nulls = 0;
}

static void
take_row(EvsCapturePlan *plan, TupleTableSlot *slot, Row *row)
{
	EvsJsonSettings settings = {0};

	prepare_row(plan, row);
	slot_getallattrs(slot);
	for (int i = 0; i < plan->ncolumns; i++)
		take_value(plan, slot, i, &settings, row);
	evs_json_end(&settings);
}

/*
 * A part of a key as text.  With several parts, "+" stands between them, and is
 * escaped within them: different keys never make the same name.
 */
static void
append_key(StringInfo name, const JsonbValue *value, bool escape)
{
	const char *string;
	int			length;

	switch (value->type)
	{
		case jbvString:
			string = value->val.string.val;
			length = value->val.string.len;
			break;
		case jbvNumeric:
			string = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(value->val.numeric)));
			length = strlen(string);
			break;
		case jbvBool:
			string = value->val.boolean ? "true" : "false";
			length = strlen(string);
			break;
		default:
			elog(ERROR, "unexpected type %d of a key", (int) value->type);
	}

	for (int i = 0; i < length; i++)
	{
		if (escape && (string[i] == '+' || string[i] == '\\'))
			appendStringInfoChar(name, '\\');
		appendStringInfoChar(name, string[i]);
	}
}

/* Said in terms of the table: whoever changes a row need not know of streams. */
static void
check_length(const EvsCapturePlan *plan, const StringInfoData *name)
{
	if (name->len > EVS_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key of captured table \"%s\" is too long", get_rel_name(plan->relid)),
				 errdetail("The name of the row's stream, \"%.*s...\", has %d bytes, at most %d are allowed.",
						   pg_mbcliplen(name->data, name->len, MOST_SHOWN), name->data,
						   name->len, EVS_MAX_NAME),
				 errhint("Use shorter keys, or capture the table by other columns that identify a row.")));
}

static text *
stream_of(EvsCapturePlan *plan, const Row *row)
{
	StringInfoData name;

	initStringInfo(&name);
	appendStringInfoString(&name, plan->category);
	for (int i = 0; i < plan->nkeys; i++)
	{
		const JsonbValue *value = &row->values[plan->keys[i]];

		if (value->type == jbvNull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("key column \"%s\" of captured table \"%s\" is null",
							plan->columns[plan->keys[i]].name, get_rel_name(plan->relid)),
					 errdetail("The name of a row's stream is made of its key."),
					 errhint("Capture the table by columns that are not null.")));
		appendStringInfoChar(&name, i == 0 ? '-' : '+');
		append_key(&name, value, plan->nkeys > 1);
	}
	check_length(plan, &name);
	return cstring_to_text_with_len(name.data, name.len);
}

static void
push_key(JsonbInState *state, const char *name, int length)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = length;
	pushJsonbValue(state, WJB_KEY, &key);
}

/* The columns that are told, or all. */
static void
push_row(JsonbInState *state, const char *name, EvsCapturePlan *plan, const Row *row,
		 const bool *told)
{
	push_key(state, name, strlen(name));
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < plan->ncolumns; i++)
	{
		if (told != NULL && !told[i])
			continue;
		push_key(state, plan->columns[i].name, plan->columns[i].name_length);
		pushJsonbValue(state, WJB_VALUE, &row->values[i]);
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* Names of the columns that are marked. */
static void
push_names(JsonbInState *state, const char *name, EvsCapturePlan *plan, const bool *marked)
{
	push_key(state, name, strlen(name));
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < plan->ncolumns; i++)
	{
		JsonbValue	element;

		if (!marked[i])
			continue;
		element.type = jbvString;
		element.val.string.val = unconstify(char *, plan->columns[i].name);
		element.val.string.len = plan->columns[i].name_length;
		pushJsonbValue(state, WJB_ELEM, &element);
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* About how many bytes a row takes in a jsonb: not less. */
static int64
size_of(EvsCapturePlan *plan, const Row *row, const bool *told)
{
	int64		size = 0;

	for (int i = 0; row != NULL && i < plan->ncolumns; i++)
	{
		const JsonbValue *value = &row->values[i];

		if (told != NULL && !told[i])
			continue;
		/* what stands before each, and is added to align it */
		size += plan->columns[i].name_length + 2 * sizeof(JEntry) + 3;
		if (value->type == jbvString)
			size += value->val.string.len;
		else if (value->type == jbvNumeric)
			size += VARSIZE_ANY(value->val.numeric);
		else if (value->type == jbvBinary)
			size += value->val.binary.len;
	}
	return size;
}

/* What stands around the rows: their names, and those of changed columns. */
#define MAX_EVENT	((int64) JENTRY_OFFLENMASK - MaxTupleAttributeNumber * (NAMEDATALEN + 2 * sizeof(JEntry)))

/*
 * Which columns of the old row the event of an update tells; NULL: all of them, if there
 * is room for both rows.
 */
static bool *
told_of_old(EvsCapturePlan *plan, const Row *old_row, const Row *new_row, const bool *changed)
{
	bool	   *told = NULL;
	int64		size = size_of(plan, new_row, NULL) + size_of(plan, old_row, NULL);

	if (size > MAX_EVENT && changed != NULL)
	{
		told = palloc(Max(plan->ncolumns, 1) * sizeof(bool));
		memcpy(told, changed, plan->ncolumns * sizeof(bool));
		for (int i = 0; i < plan->nkeys; i++)
			told[plan->keys[i]] = true;
		size = size_of(plan, new_row, NULL) + size_of(plan, old_row, told);
	}
	if (size > MAX_EVENT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row of captured table \"%s\" is too large for an event",
						get_rel_name(plan->relid)),
				 errdetail("Its values take %lld bytes, and at most %lld fit into a jsonb.",
						   (long long) size, (long long) MAX_EVENT),
				 errhint("Capture the table without its large columns: evsource.capture_table(..., exclude_columns => ..., if_exists => 'alter').")));
	return told;
}

static Jsonb *
make_data(EvsCapturePlan *plan, const Row *old_row, const Row *new_row, const bool *changed)
{
	bool	   *told = told_of_old(plan, old_row, new_row, changed);
	JsonbInState state = {0};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (changed != NULL)
		push_names(&state, "changed", plan, changed);
	if (new_row != NULL)
		push_row(&state, "new", plan, new_row, NULL);
	if (old_row != NULL)
		push_row(&state, "old", plan, old_row, told);
	if (new_row != NULL && new_row->json_nulls > 0)
		push_names(&state, "new_json_null", plan, new_row->is_json_null);
	if (old_row != NULL && old_row->json_nulls > 0)
		push_names(&state, "old_json_null", plan, old_row->is_json_null);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

static void
make_inserted(EvsCapturePlan *plan, const Row *row, text *stream, EvsEvent *event)
{
	memset(event, 0, sizeof(EvsEvent));
	event->stream = stream;
	event->type = plan->inserted;
	event->data = make_data(plan, NULL, row, NULL);
}

static void
make_deleted(EvsCapturePlan *plan, const Row *row, text *stream, EvsEvent *event)
{
	memset(event, 0, sizeof(EvsEvent));
	event->stream = stream;
	event->type = plan->deleted;
	event->data = make_data(plan, row, NULL, NULL);
}

void
evs_capture_inserted(EvsCapturePlan *plan, TupleTableSlot *slot, EvsEvent *event)
{
	Row			row;

	take_row(plan, slot, &row);
	make_inserted(plan, &row, stream_of(plan, &row), event);
}

void
evs_capture_deleted(EvsCapturePlan *plan, TupleTableSlot *slot, EvsEvent *event)
{
	Row			row;

	take_row(plan, slot, &row);
	make_deleted(plan, &row, stream_of(plan, &row), event);
}

text *
evs_capture_stream(EvsCapturePlan *plan, TupleTableSlot *slot)
{
	EvsJsonSettings settings = {0};
	Row			row;

	slot_getallattrs(slot);
	prepare_row(plan, &row);
	for (int i = 0; i < plan->nkeys; i++)
		take_value(plan, slot, plan->keys[i], &settings, &row);
	evs_json_end(&settings);
	return stream_of(plan, &row);
}

static bool
is_same(const EvsCaptureColumn *column, TupleTableSlot *a, TupleTableSlot *b)
{
	int			attribute = column->number - 1;

	if (a->tts_isnull[attribute] || b->tts_isnull[attribute])
		return a->tts_isnull[attribute] == b->tts_isnull[attribute];
	return datum_image_eq(a->tts_values[attribute], b->tts_values[attribute],
						  column->typbyval, column->typlen);
}

/* Both rows, and where they differ; what is the same is converted once. */
static int
take_rows(EvsCapturePlan *plan, TupleTableSlot *old_slot, TupleTableSlot *new_slot,
		  Row *old_row, Row *new_row, bool *changed)
{
	EvsJsonSettings settings = {0};
	int			count = 0;

	prepare_row(plan, old_row);
	prepare_row(plan, new_row);
	for (int i = 0; i < plan->ncolumns; i++)
	{
		changed[i] = !is_same(&plan->columns[i], old_slot, new_slot);
		count += changed[i];
	}
	if (count == 0)
		return 0;
	for (int i = 0; i < plan->ncolumns; i++)
	{
		take_value(plan, new_slot, i, &settings, new_row);
		if (changed[i])
			take_value(plan, old_slot, i, &settings, old_row);
		else
		{
			old_row->values[i] = new_row->values[i];
			old_row->is_json_null[i] = new_row->is_json_null[i];
			old_row->json_nulls += new_row->is_json_null[i];
		}
	}
	evs_json_end(&settings);
	return count;
}

int
evs_capture_updated(EvsCapturePlan *plan, TupleTableSlot *old_slot, TupleTableSlot *new_slot,
					EvsEvent *events)
{
	bool	   *changed = palloc(Max(plan->ncolumns, 1) * sizeof(bool));
	bool		key_changed = false;
	text	   *stream;
	Row			old_row;
	Row			new_row;

	slot_getallattrs(old_slot);
	slot_getallattrs(new_slot);
	if (take_rows(plan, old_slot, new_slot, &old_row, &new_row, changed) == 0)
		return 0;

	stream = stream_of(plan, &new_row);
	for (int i = 0; i < plan->nkeys; i++)
		key_changed |= changed[plan->keys[i]];
	if (key_changed)
	{
		text	   *old_stream = stream_of(plan, &old_row);

		if (!evs_same_text(stream, old_stream))
		{
			make_deleted(plan, &old_row, old_stream, &events[0]);
			make_inserted(plan, &new_row, stream, &events[1]);
			return 2;
		}
	}

	memset(events, 0, sizeof(EvsEvent));
	events->stream = stream;
	events->type = plan->updated;
	events->data = make_data(plan, &old_row, &new_row, changed);
	return 1;
}

void
evs_capture_truncated(EvsCapturePlan *plan, Relation table, EvsEvent *event)
{
	JsonbInState state = {0};
	JsonbValue	name;
	int			nest_level = evs_quote_as_needed();

	name.type = jbvString;
	name.val.string.val = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(table)),
													 RelationGetRelationName(table));
	AtEOXact_GUC(true, nest_level);
	name.val.string.len = strlen(name.val.string.val);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, "table", strlen("table"));
	pushJsonbValue(&state, WJB_VALUE, &name);

	memset(event, 0, sizeof(EvsEvent));
	event->stream = cstring_to_text(plan->category);
	event->type = plan->truncated;
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	event->data = JsonbValueToJsonb(state.result);
}
