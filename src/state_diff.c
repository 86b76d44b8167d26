/*
 * state_diff.c - in what two states differ.
 *
 * An object's pairs are stored in the order of their keys, so two objects are walked
 * side by side, where they stand: nothing is copied but what differs.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

PG_FUNCTION_INFO_V1(evsource_differences);

/* A walk over an object's pairs. */
typedef struct Walk
{
	JsonbIterator *iterator;
	JsonbValue	key;
	JsonbValue	value;
	bool		done;
} Walk;

/* Where two values stand that are compared. */
typedef struct Path
{
	const struct Path *outer;	/* NULL: the states themselves */
	const JsonbValue *key;
	int			length;
} Path;

static void
walk_next(Walk *walk)
{
	walk->done = JsonbIteratorNext(&walk->iterator, &walk->key, true) != WJB_KEY;
	if (!walk->done)
		(void) JsonbIteratorNext(&walk->iterator, &walk->value, true);
}

static Walk *
walk_begin(const JsonbValue *object)
{
	Walk	   *walk = palloc(sizeof(Walk));

	walk->iterator = JsonbIteratorInit(object->val.binary.data);
	(void) JsonbIteratorNext(&walk->iterator, &walk->value, true);
	walk_next(walk);
	return walk;
}

/* As jsonb sorts them: the shorter one first.  One that is done is behind all. */
static int
compare_keys(const Walk *left, const Walk *right)
{
	if (left->done || right->done)
		return (int) left->done - (int) right->done;
	if (left->key.val.string.len != right->key.val.string.len)
		return left->key.val.string.len < right->key.val.string.len ? -1 : 1;
	return memcmp(left->key.val.string.val, right->key.val.string.val, left->key.val.string.len);
}

static bool
is_object(const JsonbValue *value)
{
	return value != NULL && value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static Datum
path_array(const Path *path)
{
	int			count = path->length;
	Datum	   *keys = palloc(sizeof(Datum) * Max(count, 1));

	for (; path->outer != NULL; path = path->outer)
		keys[path->length - 1] = PointerGetDatum(cstring_to_text_with_len(path->key->val.string.val,
																		  path->key->val.string.len));
	return PointerGetDatum(construct_array(keys, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Not objects both: as a whole.  Not inlined, so that it takes no stack in compare(). */
static pg_noinline void
compare_whole(ReturnSetInfo *result, const Path *path, JsonbValue *before, JsonbValue *after)
{
	Jsonb	   *one = before == NULL ? NULL : JsonbValueToJsonb(before);
	Jsonb	   *other = after == NULL ? NULL : JsonbValueToJsonb(after);

	if (one == NULL || other == NULL || compareJsonbContainers(&one->root, &other->root) != 0)
	{
		Datum		values[] = {path_array(path), PointerGetDatum(one), PointerGetDatum(other)};
		bool		nulls[] = {false, one == NULL, other == NULL};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	if (one != NULL)
		pfree(one);
	if (other != NULL)
		pfree(other);
}

static void
compare(ReturnSetInfo *result, const Path *path, JsonbValue *before, JsonbValue *after)
{
	Walk	   *left;
	Walk	   *right;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (!is_object(before) || !is_object(after))
	{
		compare_whole(result, path, before, after);
		return;
	}

	left = walk_begin(before);
	right = walk_begin(after);
	while (!left->done || !right->done)
	{
		int			order = compare_keys(left, right);
		Path		inner = {path, order <= 0 ? &left->key : &right->key, path->length + 1};

		compare(result, &inner, order <= 0 ? &left->value : NULL, order >= 0 ? &right->value : NULL);
		if (order <= 0)
			walk_next(left);
		if (order >= 0)
			walk_next(right);
	}
	pfree(left);
	pfree(right);
}

/* A value as it stands in an object. */
static void
as_value(Jsonb *state, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(state))
	{
		(void) JsonbExtractScalar(&state->root, value);
		return;
	}
	value->type = jbvBinary;
	value->val.binary.data = &state->root;
	value->val.binary.len = VARSIZE(state) - VARHDRSZ;
}

/*
 * evsource._differences(one jsonb, other jsonb) returns setof (path text[], before
 * jsonb, after jsonb): see evsource.diff_state.
 */
Datum
evsource_differences(PG_FUNCTION_ARGS)
{
	Path		root = {0};
	JsonbValue	before;
	JsonbValue	after;

	InitMaterializedSRF(fcinfo, 0);
	as_value(PG_GETARG_JSONB_P(0), &before);
	as_value(PG_GETARG_JSONB_P(1), &after);
	compare((ReturnSetInfo *) fcinfo->resultinfo, &root, &before, &after);
	return (Datum) 0;
}
