/*
 * shadow.c - the tables in which the next version of a read model is built.
 *
 * They have the names of the projection's tables and stand in a schema of their
 * own.  The handler finds them because that schema is the first in its
 * search_path.  A handler that does not look there (it names the schema, sets a
 * path of its own, was bound to the tables when it was created) would work on
 * the old version.  What it locks betrays it, whatever it does: nothing in the
 * transactions that build the shadow has a reason to lock the old tables.
 *
 * The shadow is made by its owner-to-be, since defaults, constraints and
 * indexes are code of that role.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "identity.h"
#include "members.h"
#include "query.h"
#include "relations.h"
#include "resolve.h"
#include "shadow.h"
#include "swap.h"

#define SCHEMA_PREFIX	"evsource_shadow_"

static EvsQuery find_obstacle = {
	"select evsource._shadow_obstacle($1, $2)",
	2, {REGCLASSARRAYOID, BOOLOID}, SPI_OK_SELECT
};

static EvsQuery list_statements = {
	"select s from evsource._shadow_statements($1, $2) s",
	2, {REGCLASSARRAYOID, TEXTOID}, SPI_OK_SELECT
};

static EvsQuery list_access = {
	"select s from evsource._shadow_access($1, $2, $3) s",
	3, {REGCLASSARRAYOID, TEXTOID, OIDOID}, SPI_OK_SELECT
};

/* Who may look into the schema, besides its owner and the tables'. */
static EvsQuery list_others = {
	"select distinct case x.grantee when 0 then 'public' else x.grantee::regrole::text end"
	" from pg_catalog.pg_namespace n cross join lateral pg_catalog.aclexplode(n.nspacl) x"
	" where n.nspname = $1 and x.grantee <> n.nspowner and x.grantee <> $2",
	2, {NAMEOID, OIDOID}, SPI_OK_SELECT
};

/* ---- names ---- */

/* A table by its stored name, not locked: InvalidOid when it is gone. */
static Oid
find_table(const char *name)
{
	List	   *names = stringToQualifiedNameList(name, NULL);

	return RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, true);
}

static Oid
find_shadow(const char *table, const char *schema)
{
	List	   *names = stringToQualifiedNameList(table, NULL);
	Oid			namespace = get_namespace_oid(schema, true);

	return OidIsValid(namespace) ? get_relname_relid(strVal(llast(names)), namespace) : InvalidOid;
}

static ArrayType *
table_array(List *tables)
{
	Datum	   *elements = palloc(sizeof(Datum) * list_length(tables));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, tables)
	{
		Oid			table = find_table(lfirst(cell));

		if (!OidIsValid(table))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table %s does not exist", (char *) lfirst(cell)),
					 errhint("Tell the projection what its tables are: evsource.alter_projection().")));
		elements[count++] = ObjectIdGetDatum(table);
	}
	return construct_array(elements, count, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT);
}

/* The only value of a query, or NULL. */
static char *
query_text(EvsQuery *query, Datum *values)
{
	return linitial(evs_query_texts(query, values, NULL));
}

/* As long as possible the projection's name can be read in it. */
static char *
schema_name(const char *projection)
{
	if (strlen(SCHEMA_PREFIX) + strlen(projection) < NAMEDATALEN)
		return psprintf(SCHEMA_PREFIX "%s", projection);
	return psprintf(SCHEMA_PREFIX "%016llx",
					(unsigned long long) DatumGetUInt64(hash_any_extended((const unsigned char *) projection,
																		  strlen(projection), 0)));
}

bool
evs_shadow_is_name(const char *name)
{
	return strncmp(name, SCHEMA_PREFIX, strlen(SCHEMA_PREFIX)) == 0;
}

/* ---- before ---- */

/* Does the handler's search_path lead to the tables? */
static const char *
find_hidden_table(const EvsProjection *projection)
{
	EvsIdentity identity;
	const char *hidden = NULL;
	ListCell   *cell;

	evs_identity_enter(&identity, projection->owner, projection->search_path);
	foreach(cell, projection->tables)
	{
		List	   *names = stringToQualifiedNameList(lfirst(cell), NULL);

		if (RelnameGetRelid(strVal(llast(names))) != find_table(lfirst(cell)))
			hidden = lfirst(cell);
	}
	evs_identity_leave(&identity);
	return hidden;
}

const char *
evs_shadow_obstacle(EvsProjection *projection, bool building)
{
	Datum		values[] = {
		PointerGetDatum(table_array(projection->tables)), BoolGetDatum(building)
	};
	const char *reason;

	Oid			namespace = get_namespace_oid(schema_name(projection->name), true);

	if (OidIsValid(namespace) && !evs_member_is_ours(NamespaceRelationId, namespace))
		return psprintf("there is a schema %s that is not evsource's",
						quote_identifier(schema_name(projection->name)));
	if (evs_projection_load(schema_name(projection->name), true) != NULL)
		return psprintf("there is a projection \"%s\", whose dead letters are under the name that those of the rebuild would have",
						schema_name(projection->name));
	if (projection->on_reset != NULL)
		return psprintf("its function %s empties what evsource does not know", projection->on_reset);
	reason = query_text(&find_obstacle, values);
	if (reason != NULL)
		return reason;
	reason = evs_resolve_foreign_table(projection);
	if (reason != NULL)
		return psprintf("table %s does not belong to the projection's owner, role \"%s\"", reason, projection->owner);
	reason = find_hidden_table(projection);
	if (reason != NULL)
		return psprintf("its search_path does not lead to table %s, so it must name the schema", reason);
	return NULL;
}

static List *
get_statements(List *tables, const char *schema)
{
	Datum		values[] = {PointerGetDatum(table_array(tables)), CStringGetTextDatum(schema)};

	return evs_query_texts(&list_statements, values, NULL);
}

/*
 * Who may use a table is not its shape.  Whose it is, is: the other one's rows would be
 * those of somebody else's table.
 */
static char *
hash_shape(List *tables, List *statements)
{
	uint64		hash = 0;
	ListCell   *cell;

	foreach(cell, statements)
	{
		const char *statement = lfirst(cell);

		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) statement,
												strlen(statement), hash));
	}
	foreach(cell, tables)
	{
		Oid			owner = evs_relation_owner(find_table(lfirst(cell)));

		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) &owner, sizeof(Oid), hash));
	}
	return psprintf("%016llx", (unsigned long long) hash);
}

char *
evs_shadow_shape(List *tables, const char *schema)
{
	return hash_shape(tables, get_statements(tables, schema));
}

/* ---- making it ---- */

void
evs_shadow_execute(List *statements, const char *role)
{
	EvsIdentity identity;
	ListCell   *cell;

	evs_identity_enter(&identity, role, "pg_catalog, pg_temp");
	/* the statements mean what they were made of, whatever the session's settings are */
	evs_identity_pin_settings();
	/* what a statement does not name is where the old table has it: nowhere special */
	(void) set_config_option("default_tablespace", "", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	foreach(cell, statements)
		evs_query_command(lfirst(cell));
	evs_identity_leave(&identity);
	CommandCounterIncrement();
}

/* As the owner of evsource's tables. */
static void
execute_as_evsource(char *statement)
{
	evs_shadow_execute(list_make1(statement), GetUserNameFromId(evs_query_owner(), false));
}

/* Who else runs code that needs the tables: the handler may be SECURITY DEFINER. */
Oid
evs_shadow_builder(const EvsProjection *projection, Oid owner)
{
	HeapTuple	tuple;
	Form_pg_proc function;
	Oid			builder = owner;

	if (projection->handler == NULL)
		return owner;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(evs_resolve_signature(projection->handler)));
	if (!HeapTupleIsValid(tuple))
		return owner;
	function = (Form_pg_proc) GETSTRUCT(tuple);
	if (function->prosecdef)
		builder = function->proowner;
	ReleaseSysCache(tuple);
	return builder;
}

static List *
get_access(List *tables, const char *schema, Oid builder)
{
	Datum		values[] = {
		PointerGetDatum(table_array(tables)), CStringGetTextDatum(schema), ObjectIdGetDatum(builder)
	};

	return evs_query_texts(&list_access, values, NULL);
}

/* To nobody but its owner and the tables' is the schema open. */
static void
close_schema(const char *schema, Oid table_owner)
{
	NameData	name;
	Datum		values[] = {NameGetDatum(&name), ObjectIdGetDatum(table_owner)};
	ListCell   *cell;

	namestrcpy(&name, schema);
	foreach(cell, evs_query_texts(&list_others, values, NULL))
		execute_as_evsource(psprintf("revoke all on schema %s from %s", quote_identifier(schema),
									 (char *) lfirst(cell)));
}

/* The tables and sequences in a schema. */
static List *
relations_in(Oid namespace)
{
	Relation	pg_class = table_open(RelationRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *relations = NIL;

	ScanKeyInit(&key, Anum_pg_class_relnamespace, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(namespace));
	scan = systable_beginscan(pg_class, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind == RELKIND_RELATION || form->relkind == RELKIND_SEQUENCE)
			relations = lappend_oid(relations, form->oid);
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	return relations;
}

char *
evs_shadow_create(EvsProjection *projection, char **shape)
{
	char	   *schema = schema_name(projection->name);
	List	   *statements = get_statements(projection->tables, schema);
	const char *quoted = quote_identifier(schema);
	Oid			owner = evs_relation_owner(find_table(linitial(projection->tables)));
	Oid			builder = evs_shadow_builder(projection, owner);
	const char *owner_name = GetUserNameFromId(owner, false);
	Oid			namespace;
	ListCell   *cell;

	evs_shadow_drop(schema);	/* one of ours that a restore has left */
	execute_as_evsource(psprintf("create schema %s", quoted));
	execute_as_evsource(psprintf("comment on schema %s is %s", quoted,
								 quote_literal_cstr(psprintf("evsource: a version of the read model of projection \"%s\"",
															 projection->name))));
	close_schema(schema, InvalidOid);	/* default privileges */
	execute_as_evsource(psprintf("grant usage, create on schema %s to %s", quoted,
								 quote_identifier(owner_name)));

	evs_shadow_execute(statements, owner_name);
	evs_shadow_execute(get_access(projection->tables, schema, builder), owner_name);

	execute_as_evsource(psprintf("revoke create on schema %s from %s", quoted,
								 quote_identifier(owner_name)));
	if (builder != owner)
		execute_as_evsource(psprintf("grant usage on schema %s to %s", quoted,
									 quote_identifier(GetUserNameFromId(builder, false))));
	CommandCounterIncrement();

	namespace = get_namespace_oid(schema, false);
	evs_member_join(NamespaceRelationId, namespace);
	foreach(cell, relations_in(namespace))
		evs_member_join(RelationRelationId, lfirst_oid(cell));
	CommandCounterIncrement();
	*shape = hash_shape(projection->tables, statements);
	return schema;
}

void
evs_shadow_drop(const char *schema)
{
	Oid			namespace = get_namespace_oid(schema, true);
	ObjectAddresses *members = new_object_addresses();
	ObjectAddress address;
	ListCell   *cell;

	if (!OidIsValid(namespace) || !evs_member_is_ours(NamespaceRelationId, namespace))
		return;

	foreach(cell, relations_in(namespace))
	{
		evs_member_leave(RelationRelationId, lfirst_oid(cell));
		ObjectAddressSet(address, RelationRelationId, lfirst_oid(cell));
		add_exact_object_address(&address, members);
	}
	evs_member_leave(NamespaceRelationId, namespace);
	CommandCounterIncrement();

	/* what is not ours keeps the tables, and them the schema */
	ObjectAddressSet(address, NamespaceRelationId, namespace);
	PG_TRY();
	{
		performMultipleDeletions(members, DROP_RESTRICT,
								 PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
		CommandCounterIncrement();
		performDeletion(&address, DROP_RESTRICT,
						PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST)
			errhint("Drop them, and try again: schema %s holds a version of a read model that evsource drops.",
					quote_identifier(schema));
		PG_RE_THROW();
	}
	PG_END_TRY();
	free_object_addresses(members);
	CommandCounterIncrement();
}

bool
evs_shadow_exists(List *tables, const char *schema)
{
	ListCell   *cell;

	foreach(cell, tables)
		if (!OidIsValid(find_table(lfirst(cell))) ||
			!OidIsValid(find_shadow(lfirst(cell), schema)))
			return false;
	return true;
}

/* ---- using it ---- */

EvsProjection *
evs_shadow_redirect(const EvsProjection *projection, const char *schema)
{
	EvsProjection *redirected = palloc(sizeof(EvsProjection));

	*redirected = *projection;
	redirected->runtime = NULL;
	redirected->live_path = projection->search_path;
	redirected->search_path = psprintf("%s, %s", quote_identifier(schema),
									   projection->search_path);
	return redirected;
}

void
evs_shadow_watch(EvsShadowWatch *watch, List *tables)
{
	ListCell   *cell;

	watch->names = NIL;
	watch->relations = NIL;
	watch->touched = NULL;
	foreach(cell, tables)
	{
		Oid			table = find_table(lfirst(cell));
		ListCell   *sequence;

		watch->names = lappend(watch->names, psprintf("table %s", (char *) lfirst(cell)));
		watch->relations = lappend_oid(watch->relations, table);
		foreach(sequence, evs_swap_sequences(table))
		{
			Oid			oid = lfirst_oid(sequence);

			watch->names = lappend(watch->names,
								   psprintf("sequence %s",
											quote_qualified_identifier(get_namespace_name(get_rel_namespace(oid)),
																	   get_rel_name(oid))));
			watch->relations = lappend_oid(watch->relations, oid);
		}
	}
	watch->taken = tables != NIL &&
		evs_relation_is_locked(linitial_oid(watch->relations), AccessExclusiveLock,
							   AccessExclusiveLock);
}

bool
evs_shadow_touched(EvsShadowWatch *watch)
{
	ListCell   *name;
	ListCell   *relation;

	forboth(name, watch->names, relation, watch->relations)
		if (watch->touched == NULL &&
			evs_relation_is_locked(lfirst_oid(relation), AccessShareLock,
								   watch->taken ? ExclusiveLock : AccessExclusiveLock))
			watch->touched = lfirst(name);
	return watch->touched != NULL;
}

List *
evs_shadow_relations(List *tables, const char *schema)
{
	List	   *relations = NIL;
	ListCell   *cell;

	foreach(cell, tables)
		relations = lappend_oid(relations, find_table(lfirst(cell)));
	foreach(cell, tables)
		relations = lappend_oid(relations, find_shadow(lfirst(cell), schema));

	/* who has drawn from a sequence may hold nothing but that, and vacuum a TOAST table */
	foreach(cell, list_copy(relations))
	{
		relations = list_concat(relations, evs_swap_sequences(lfirst_oid(cell)));
		if (OidIsValid(evs_relation_toast(lfirst_oid(cell))))
			relations = lappend_oid(relations, evs_relation_toast(lfirst_oid(cell)));
	}
	return relations;
}

void
evs_shadow_lock(List *tables, const char *schema)
{
	ListCell   *cell;

	foreach(cell, evs_shadow_relations(tables, schema))
		LockRelationOid(lfirst_oid(cell), AccessExclusiveLock);
}

List *
evs_shadow_dropped(const char *schema)
{
	Oid			namespace = get_namespace_oid(schema, true);
	List	   *own = OidIsValid(namespace) ? relations_in(namespace) : NIL;
	List	   *referenced = NIL;
	List	   *toast = NIL;
	ListCell   *cell;

	foreach(cell, own)
	{
		referenced = list_union_oid(referenced, evs_relation_references(lfirst_oid(cell)));
		if (OidIsValid(evs_relation_toast(lfirst_oid(cell))))
			toast = lappend_oid(toast, evs_relation_toast(lfirst_oid(cell)));
	}

	/* as who deletes from one of these, and then looks whether it is referred to */
	return list_concat(list_difference_oid(referenced, own), list_concat(own, toast));
}

List *
evs_shadow_referenced(List *tables)
{
	List	   *own = NIL;
	List	   *referenced = NIL;
	ListCell   *cell;

	foreach(cell, tables)
		own = lappend_oid(own, find_table(lfirst(cell)));
	foreach(cell, own)
		referenced = list_union_oid(referenced, evs_relation_references(lfirst_oid(cell)));
	return list_difference_oid(referenced, own);
}

void
evs_shadow_swap(List *tables, const char *schema)
{
	ListCell   *cell;

	foreach(cell, tables)
		evs_swap_tables(find_table(lfirst(cell)), find_shadow(lfirst(cell), schema));

	/* nobody builds there any more */
	close_schema(schema, evs_relation_owner(find_shadow(linitial(tables), schema)));
	recordExtObjInitPriv(get_namespace_oid(schema, false), NamespaceRelationId);
}
