/*
 * capture_json.c - values of any type as JSON.
 *
 * What is written must be the same in every session, and must give the very
 * value back when it is read as its type.  So:
 *
 *	numbers		as JSON numbers, floats by their shortest exact digits
 *	dates		in ISO form; a timestamptz in UTC
 *	bytea		in hex
 *	arrays		as JSON arrays, if that says all: not when an index begins
 *				elsewhere than at 1, nor for elements that are JSON or arrays themselves
 *	composites	as objects, if that says all: not when a field of JSON is null there
 *	the rest	as the text that the type's output function gives
 *
 * to_jsonb would do for some of it, but it calls casts to json that anybody may have
 * defined for a type: a table's owner would have code of their own run by whoever
 * changes the table or captures it.  Output functions are the work of superusers.
 *
 * Output functions may depend on settings.  They are set to what they must be
 * when such a function is about to run, and only then: it costs more than all
 * the rest of the row.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "capture_json.h"

typedef enum FormKind
{
	FORM_BOOL,
	FORM_INT2,
	FORM_INT4,
	FORM_INT8,
	FORM_FLOAT4,
	FORM_FLOAT8,
	FORM_NUMERIC,
	FORM_TEXT,					/* text and its likes */
	FORM_BYTEA,
	FORM_DATETIME,				/* date, timestamp, timestamptz */
	FORM_JSON,
	FORM_JSONB,
	FORM_ARRAY,
	FORM_COMPOSITE,
	FORM_OUTPUT					/* by the output function */
} FormKind;

struct EvsJsonForm
{
	FormKind	kind;
	Oid			type;			/* never a domain */
	bool		depends;		/* its text depends on settings */
	FmgrInfo	function;		/* output function */
	EvsJsonForm *element;		/* of an array */
	int16		typlen;			/* of an array's elements */
	bool		typbyval;
	char		typalign;
	MemoryContext context;		/* of a composite: where its fields are kept */
	uint64		identifier;		/* of the row type they are of; 0: none yet */
	EvsJsonForm **fields;		/* NULL: dropped */
};

/* Types of PostgreSQL's own whose text is the same under all settings. */
static bool
has_fixed_text(Oid type)
{
	switch (type)
	{
		case BITOID:
		case CHAROID:
		case CIDROID:
		case CIDOID:
		case INETOID:
		case INT4RANGEOID:
		case INT8RANGEOID:
		case MACADDR8OID:
		case MACADDROID:
		case NAMEOID:
		case NUMRANGEOID:
		case OIDOID:
		case TIDOID:
		case TIMEOID:
		case TIMETZOID:
		case TSQUERYOID:
		case TSVECTOROID:
		case UUIDOID:
		case VARBITOID:
		case XIDOID:
			return true;
		default:
			return get_typtype(type) == TYPTYPE_ENUM;
	}
}

static FormKind
kind_of(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return FORM_BOOL;
		case INT2OID:
			return FORM_INT2;
		case INT4OID:
			return FORM_INT4;
		case INT8OID:
			return FORM_INT8;
		case FLOAT4OID:
			return FORM_FLOAT4;
		case FLOAT8OID:
			return FORM_FLOAT8;
		case NUMERICOID:
			return FORM_NUMERIC;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return FORM_TEXT;
		case BYTEAOID:
			return FORM_BYTEA;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return FORM_DATETIME;
		case JSONOID:
			return FORM_JSON;
		case JSONBOID:
			return FORM_JSONB;
		default:
			return type_is_rowtype(type) ? FORM_COMPOSITE : FORM_OUTPUT;
	}
}

static bool
is_json(const EvsJsonForm *form)
{
	return form->kind == FORM_JSON || form->kind == FORM_JSONB;
}

EvsJsonForm *
evs_json_form(Oid type)
{
	EvsJsonForm *form = palloc0(sizeof(EvsJsonForm));
	Oid			element;

	form->type = getBaseType(type);
	form->kind = kind_of(form->type);
	if (form->kind == FORM_COMPOSITE || form->kind == FORM_OUTPUT)
	{
		Oid			output;
		bool		is_varlena;

		form->depends = !has_fixed_text(form->type);
		form->context = CurrentMemoryContext;
		getTypeOutputInfo(form->type, &output, &is_varlena);
		fmgr_info_cxt(output, &form->function, CurrentMemoryContext);

		element = get_element_type(form->type);
		if (OidIsValid(element))
		{
			get_typlenbyvalalign(element, &form->typlen, &form->typbyval, &form->typalign);
			form->element = evs_json_form(element);
			if (!is_json(form->element) && !OidIsValid(get_element_type(form->element->type)))
				form->kind = FORM_ARRAY;
		}
	}
	return form;
}

bool
evs_json_is_scalar(const EvsJsonForm *form)
{
	return !is_json(form) && form->kind != FORM_ARRAY && form->kind != FORM_COMPOSITE;
}

/*
 * The settings that the text of some type depends on.  They go back when the
 * row is done, or when the transaction aborts.
 */
static void
use_fixed_settings(EvsJsonSettings *settings)
{
	static const char *const fixed[][2] = {
		{"bytea_output", "hex"},
		{"datestyle", "ISO, YMD"},
		{"extra_float_digits", "1"},
		{"intervalstyle", "postgres"},
		{"lc_monetary", "C"},
		{"quote_all_identifiers", "off"},
		{"search_path", "pg_catalog, pg_temp"},
		{"timezone", "UTC"},
		{"xmlbinary", "base64"},
	};

	if (settings->nest_level > 0)
		return;
	settings->nest_level = NewGUCNestLevel();
	for (int i = 0; i < lengthof(fixed); i++)
		(void) set_config_option(fixed[i][0], fixed[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

void
evs_json_end(EvsJsonSettings *settings)
{
	if (settings->nest_level > 0)
		AtEOXact_GUC(true, settings->nest_level);
	settings->nest_level = 0;
}

static void
set_string(JsonbValue *value, char *string, int length)
{
	value->type = jbvString;
	value->val.string.val = string;
	value->val.string.len = length;
}

static void
set_numeric(JsonbValue *value, Datum numeric)
{
	value->type = jbvNumeric;
	value->val.numeric = DatumGetNumeric(numeric);
}

/*
 * Finite numbers are numbers; JSON has no others, so those are strings.  So is
 * the negative zero of floats, which a number in jsonb cannot be.
 */
static void
set_number_text(JsonbValue *value, char *digits)
{
	if (strpbrk(digits, "nN") != NULL || strcmp(digits, "-0") == 0)
		set_string(value, digits, strlen(digits));
	else
		set_numeric(value, DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static void
set_jsonb(JsonbValue *value, Jsonb *jsonb)
{
	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		(void) JsonbExtractScalar(&jsonb->root, value);
		return;
	}
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

static void
set_bytea(JsonbValue *value, Datum datum)
{
	bytea	   *bytes = DatumGetByteaPP(datum);
	int			length = VARSIZE_ANY_EXHDR(bytes);
	char	   *hex = MemoryContextAllocHuge(CurrentMemoryContext, 2 + (Size) length * 2);

	hex[0] = '\\';
	hex[1] = 'x';
	hex_encode(VARDATA_ANY(bytes), length, hex + 2);
	set_string(value, hex, 2 + length * 2);
}

static void
set_text(JsonbValue *value, Datum datum)
{
	text	   *string = DatumGetTextPP(datum);

	set_string(value, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

static void
set_output(EvsJsonForm *form, Datum datum, EvsJsonSettings *settings, JsonbValue *value)
{
	char	   *string;

	if (form->depends)
		use_fixed_settings(settings);
	string = OutputFunctionCall(&form->function, datum);
	set_string(value, string, strlen(string));
}

/* Push the elements of one dimension, which may be arrays themselves. */
static void
push_elements(EvsJsonForm *form, EvsJsonSettings *settings, JsonbInState *state,
			  int ndims, const int *dims, Datum **datums, bool **nulls)
{
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < dims[0]; i++)
	{
		JsonbValue	value;

		if (ndims > 1)
		{
			push_elements(form, settings, state, ndims - 1, dims + 1, datums, nulls);
			continue;
		}
		if (**nulls)
			value.type = jbvNull;
		else
			evs_json_value(form->element, **datums, settings, &value);
		pushJsonbValue(state, WJB_ELEM, &value);
		(*datums)++;
		(*nulls)++;
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static void
set_array(EvsJsonForm *form, Datum datum, EvsJsonSettings *settings, JsonbValue *value)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);
	JsonbInState state = {0};
	static const int no_elements[] = {0};
	Datum	   *datums;
	bool	   *nulls;
	int			count;

	/* a JSON array begins at 1 here: when this one does not, its text says so */
	for (int i = 0; i < ARR_NDIM(array); i++)
		if (ARR_LBOUND(array)[i] != 1)
		{
			set_output(form, datum, settings, value);
			return;
		}

	deconstruct_array(array, ARR_ELEMTYPE(array), form->typlen, form->typbyval, form->typalign,
					  &datums, &nulls, &count);
	push_elements(form, settings, &state, Max(ARR_NDIM(array), 1),
				  count > 0 ? ARR_DIMS(array) : no_elements, &datums, &nulls);
	set_jsonb(value, JsonbValueToJsonb(state.result));
}

/*
 * What a composite type has now, pinned, with the forms of its fields.  It can get
 * others while the tables that use it stay as they are.
 */
static TupleDesc
take_fields(EvsJsonForm *form)
{
	TypeCacheEntry *entry = lookup_type_cache(form->type, TYPECACHE_TUPDESC);
	TupleDesc	desc = entry->tupDesc;

	if (desc == NULL)
		elog(ERROR, "type %u is not composite", form->type);
	PinTupleDesc(desc);
	if (form->identifier != entry->tupDesc_identifier)
	{
		MemoryContext old = MemoryContextSwitchTo(form->context);
		uint64		identifier = entry->tupDesc_identifier;

		form->fields = palloc0(Max(desc->natts, 1) * sizeof(EvsJsonForm *));
		for (int i = 0; i < desc->natts; i++)
			if (!TupleDescAttr(desc, i)->attisdropped)
				form->fields[i] = evs_json_form(TupleDescAttr(desc, i)->atttypid);
		form->identifier = identifier;
		MemoryContextSwitchTo(old);
	}
	return desc;
}

static void
set_composite(EvsJsonForm *form, Datum datum, EvsJsonSettings *settings, JsonbValue *value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(datum);
	TupleDesc	desc = take_fields(form);
	HeapTupleData tuple = {HeapTupleHeaderGetDatumLength(header), {{0}}, InvalidOid, header};
	Datum	   *datums = palloc(Max(desc->natts, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(desc->natts, 1) * sizeof(bool));
	JsonbInState state = {0};
	bool		says_all = true;

	check_stack_depth();
	heap_deform_tuple(&tuple, desc, datums, nulls);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		JsonbValue	field;

		if (form->fields[i] == NULL)
			continue;
		set_string(&field, pstrdup(NameStr(TupleDescAttr(desc, i)->attname)),
				   strlen(NameStr(TupleDescAttr(desc, i)->attname)));
		pushJsonbValue(&state, WJB_KEY, &field);
		if (nulls[i])
			field.type = jbvNull;
		else
		{
			evs_json_value(form->fields[i], datums[i], settings, &field);
			/* a JSON null would come back as NULL */
			says_all &= field.type != jbvNull;
		}
		pushJsonbValue(&state, WJB_VALUE, &field);
	}
	if (says_all)
	{
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
		set_jsonb(value, JsonbValueToJsonb(state.result));
	}
	else
		set_output(form, datum, settings, value);
	ReleaseTupleDesc(desc);
}

/* As to_jsonb writes a date, but in UTC whatever the time zone is. */
static void
set_datetime(EvsJsonForm *form, Datum datum, JsonbValue *value)
{
	static const int utc = 0;
	char	   *string = palloc(MAXDATELEN + 1);

	JsonEncodeDateTime(string, datum, form->type, form->type == TIMESTAMPTZOID ? &utc : NULL);
	set_string(value, string, strlen(string));
}

void
evs_json_value(EvsJsonForm *form, Datum datum, EvsJsonSettings *settings, JsonbValue *value)
{
	char	   *digits;

	switch (form->kind)
	{
		case FORM_BOOL:
			value->type = jbvBool;
			value->val.boolean = DatumGetBool(datum);
			break;
		case FORM_INT2:
			set_numeric(value, DirectFunctionCall1(int2_numeric, datum));
			break;
		case FORM_INT4:
			set_numeric(value, DirectFunctionCall1(int4_numeric, datum));
			break;
		case FORM_INT8:
			set_numeric(value, DirectFunctionCall1(int8_numeric, datum));
			break;
		case FORM_FLOAT4:
			digits = palloc(FLOAT_SHORTEST_DECIMAL_LEN);
			float_to_shortest_decimal_buf(DatumGetFloat4(datum), digits);
			set_number_text(value, digits);
			break;
		case FORM_FLOAT8:
			digits = palloc(DOUBLE_SHORTEST_DECIMAL_LEN);
			double_to_shortest_decimal_buf(DatumGetFloat8(datum), digits);
			set_number_text(value, digits);
			break;
		case FORM_NUMERIC:
			if (numeric_is_nan(DatumGetNumeric(datum)) || numeric_is_inf(DatumGetNumeric(datum)))
			{
				digits = DatumGetCString(DirectFunctionCall1(numeric_out, datum));
				set_string(value, digits, strlen(digits));
			}
			else
				set_numeric(value, datum);
			break;
		case FORM_TEXT:
			set_text(value, datum);
			break;
		case FORM_BYTEA:
			set_bytea(value, datum);
			break;
		case FORM_DATETIME:
			set_datetime(form, datum, value);
			break;
		case FORM_JSON:
			set_jsonb(value, DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
																CStringGetDatum(TextDatumGetCString(datum)))));
			break;
		case FORM_JSONB:
			set_jsonb(value, DatumGetJsonbP(datum));
			break;
		case FORM_ARRAY:
			set_array(form, datum, settings, value);
			break;
		case FORM_COMPOSITE:
			set_composite(form, datum, settings, value);
			break;
		case FORM_OUTPUT:
			set_output(form, datum, settings, value);
			break;
	}
}
