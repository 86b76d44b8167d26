/*
 * swap.c - exchange what two tables hold.
 *
 * A table is its row in pg_class and what hangs on its OID: rights, policies,
 * comments, triggers, views and foreign keys that refer to it, publications,
 * plans.  What it holds is in files, and its row says which.  Exchanging the
 * files of two tables leaves everything else as it is, and takes no longer for
 * many rows than for few.
 *
 * The files go together with all that describes them: table space, sizes, the
 * oldest transactions in them, the values of columns that were added later, and
 * the TOAST table, since rows that are stored out of line name it by its OID.
 *
 * Nothing here creates a file: a transaction may leave changes to files that it
 * has created out of the WAL, so the files must be older than it.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "commands/tablecmds.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "swap.h"

#define EXCHANGE(type, a, b) \
	do { type exchanged_ = (a); (a) = (b); (b) = exchanged_; } while (0)

static void
refuse(Relation left, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot exchange the contents of table \"%s\"",
					RelationGetRelationName(left)),
			 errdetail("The two tables do not have the same %s.", what),
			 errhint("Undo what was done to one of them, or call evsource.rebuild_projection() with online => false.")));
}

/* ---- is what is in one at home in the other? ---- */

/*
 * Of a column that was dropped nobody reads the values that old rows have: only what place
 * they take matters.  After pg_upgrade attbyval says nothing about it.
 */
static void
check_columns(Relation left, Relation right)
{
	TupleDesc	left_desc = RelationGetDescr(left);
	TupleDesc	right_desc = RelationGetDescr(right);

	if (left_desc->natts != right_desc->natts)
		refuse(left, "columns");
	for (int i = 0; i < left_desc->natts; i++)
	{
		Form_pg_attribute a = TupleDescAttr(left_desc, i);
		Form_pg_attribute b = TupleDescAttr(right_desc, i);

		if (a->attisdropped != b->attisdropped || a->attlen != b->attlen ||
			a->attalign != b->attalign)
			refuse(left, "columns");
		if (!a->attisdropped &&
			(a->attbyval != b->attbyval ||
			 a->atttypid != b->atttypid || a->atttypmod != b->atttypmod ||
			 a->attcollation != b->attcollation || a->attgenerated != b->attgenerated ||
			 a->attnotnull != b->attnotnull ||
			 (left->rd_index == NULL &&
			  strcmp(NameStr(a->attname), NameStr(b->attname)) != 0)))
			refuse(left, "columns");
	}
}

static void
check_storage(Relation left, Relation right)
{
	Form_pg_class a = left->rd_rel;
	Form_pg_class b = right->rd_rel;

	if (a->relkind != b->relkind || a->relam != b->relam ||
		a->relpersistence != b->relpersistence)
		refuse(left, "kind of storage");
	if (!RelFileNumberIsValid(a->relfilenode) || !RelFileNumberIsValid(b->relfilenode))
		elog(ERROR, "cannot exchange the storage of a mapped relation");
}

static bool
vectors_equal(const Oid *a, const Oid *b, int count)
{
	return memcmp(a, b, sizeof(Oid) * count) == 0;
}

/* Expressions are compared by the text that made both. */
static void
check_index(Relation table, Relation left, Relation right)
{
	Form_pg_index a = left->rd_index;
	Form_pg_index b = right->rd_index;
	int			keys = a->indnkeyatts;

	check_storage(left, right);
	check_columns(left, right);
	if (a->indnatts != b->indnatts || a->indnkeyatts != b->indnkeyatts ||
		a->indisunique != b->indisunique || a->indimmediate != b->indimmediate ||
		!a->indisvalid || !b->indisvalid ||
		memcmp(a->indkey.values, b->indkey.values, sizeof(int16) * a->indnatts) != 0 ||
		memcmp(left->rd_indoption, right->rd_indoption, sizeof(int16) * keys) != 0 ||
		!vectors_equal(left->rd_indcollation, right->rd_indcollation, keys) ||
		!vectors_equal(left->rd_opfamily, right->rd_opfamily, keys) ||
		!vectors_equal(left->rd_opcintype, right->rd_opcintype, keys))
		refuse(table, "indexes");
}

/* ---- the exchange ---- */

static void
link_toast(Oid toast, Oid table)
{
	ObjectAddress table_address;
	ObjectAddress toast_address;

	if (!OidIsValid(toast))
		return;
	ObjectAddressSet(table_address, RelationRelationId, table);
	ObjectAddressSet(toast_address, RelationRelationId, toast);
	(void) deleteDependencyRecordsFor(RelationRelationId, toast, false);
	recordDependencyOn(&toast_address, &table_address, DEPENDENCY_INTERNAL);
}

/* A TOAST table and its index are named after the table; a step of renaming them. */
static void
rename_toast(Oid toast, Oid table, const char *suffix)
{
	Relation	relation;
	Oid			index;
	char		name[NAMEDATALEN];

	if (!OidIsValid(toast))
		return;

	relation = table_open(toast, AccessExclusiveLock);
	index = linitial_oid(RelationGetIndexList(relation));
	table_close(relation, NoLock);

	snprintf(name, NAMEDATALEN, "pg_toast_%u%s", table, suffix);
	RenameRelationInternal(toast, name, true, false);
	snprintf(name, NAMEDATALEN, "pg_toast_%u%s_index", table, suffix);
	RenameRelationInternal(index, name, true, true);
	CommandCounterIncrement();
}

/* A TOAST table belongs to whom its table belongs to. */
static void
own_toast(Relation pg_class, Oid toast, Oid owner)
{
	HeapTuple	tuple;
	Oid			index;
	Relation	relation;

	if (!OidIsValid(toast))
		return;
	relation = table_open(toast, AccessExclusiveLock);
	index = linitial_oid(RelationGetIndexList(relation));
	table_close(relation, NoLock);

	for (int i = 0; i < 2; i++)
	{
		tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(i == 0 ? toast : index));
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for relation %u", toast);
		((Form_pg_class) GETSTRUCT(tuple))->relowner = owner;
		CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
		heap_freetuple(tuple);
	}
}

/* Exchange what the rows of pg_class say of the files. */
static void
swap_files(Oid left, Oid right)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	left_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(left));
	HeapTuple	right_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(right));
	Form_pg_class a;
	Form_pg_class b;
	Oid			left_toast;
	Oid			right_toast;

	if (!HeapTupleIsValid(left_tuple) || !HeapTupleIsValid(right_tuple))
		elog(ERROR, "cache lookup failed for relation %u or %u", left, right);
	a = (Form_pg_class) GETSTRUCT(left_tuple);
	b = (Form_pg_class) GETSTRUCT(right_tuple);

	EXCHANGE(Oid, a->relfilenode, b->relfilenode);
	EXCHANGE(Oid, a->reltablespace, b->reltablespace);
	EXCHANGE(int32, a->relpages, b->relpages);
	EXCHANGE(float4, a->reltuples, b->reltuples);
	EXCHANGE(int32, a->relallvisible, b->relallvisible);
	EVS_EXCHANGE_RELALLFROZEN(a, b);
	EXCHANGE(TransactionId, a->relfrozenxid, b->relfrozenxid);
	EXCHANGE(TransactionId, a->relminmxid, b->relminmxid);
	EXCHANGE(Oid, a->reltoastrelid, b->reltoastrelid);
	left_toast = a->reltoastrelid;
	right_toast = b->reltoastrelid;

	CatalogTupleUpdate(pg_class, &left_tuple->t_self, left_tuple);
	CatalogTupleUpdate(pg_class, &right_tuple->t_self, right_tuple);
	CacheInvalidateRelcacheByTuple(left_tuple);
	CacheInvalidateRelcacheByTuple(right_tuple);

	if (OidIsValid(left_toast) || OidIsValid(right_toast))
	{
		link_toast(left_toast, left);
		link_toast(right_toast, right);
		if (a->relowner != b->relowner)
		{
			own_toast(pg_class, left_toast, a->relowner);
			own_toast(pg_class, right_toast, b->relowner);
		}
		CommandCounterIncrement();
		rename_toast(left_toast, left, "_swap");
		rename_toast(right_toast, right, "");
		rename_toast(left_toast, left, "");
	}

	heap_freetuple(left_tuple);
	heap_freetuple(right_tuple);
	table_close(pg_class, RowExclusiveLock);
	CommandCounterIncrement();
}

/*
 * A row that is older than a column is shorter: the column's value is kept in
 * the catalog, and goes where the rows go.
 */
static void
swap_missing(Oid left, Oid right, AttrNumber natts)
{
	Relation	pg_attribute = table_open(AttributeRelationId, RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(pg_attribute);
	bool		replace[Natts_pg_attribute] = {false};

	replace[Anum_pg_attribute_atthasmissing - 1] = true;
	replace[Anum_pg_attribute_attmissingval - 1] = true;
	for (AttrNumber number = 1; number <= natts; number++)
	{
		HeapTuple	tuples[2];
		Datum		values[2][Natts_pg_attribute];
		bool		nulls[2][Natts_pg_attribute];

		for (int i = 0; i < 2; i++)
		{
			tuples[i] = SearchSysCache2(ATTNUM, ObjectIdGetDatum(i == 0 ? left : right),
										Int16GetDatum(number));
			if (!HeapTupleIsValid(tuples[i]))
				elog(ERROR, "cache lookup failed for attribute %d of relation %u",
					 number, i == 0 ? left : right);
			heap_deform_tuple(tuples[i], desc, values[i], nulls[i]);
		}
		if (((Form_pg_attribute) GETSTRUCT(tuples[0]))->atthasmissing ||
			((Form_pg_attribute) GETSTRUCT(tuples[1]))->atthasmissing)
		{
			for (int i = 0; i < 2; i++)
			{
				HeapTuple	new = heap_modify_tuple(tuples[i], desc, values[1 - i],
													nulls[1 - i], replace);

				CatalogTupleUpdate(pg_attribute, &new->t_self, new);
				heap_freetuple(new);
			}
		}
		ReleaseSysCache(tuples[0]);
		ReleaseSysCache(tuples[1]);
	}
	table_close(pg_attribute, RowExclusiveLock);
	CommandCounterIncrement();
}

List *
evs_swap_sequences(Oid table)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *sequences = NIL;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(table));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->classid == RelationRelationId && form->refobjsubid > 0 &&
			(form->deptype == DEPENDENCY_AUTO || form->deptype == DEPENDENCY_INTERNAL) &&
			get_rel_relkind(form->objid) == RELKIND_SEQUENCE)
			sequences = lappend_oid(sequences, form->objid);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return sequences;
}

/* The one of the same name among others, which loses it. */
static Oid
take_namesake(Oid relation, List **others)
{
	char	   *name = get_rel_name(relation);
	ListCell   *cell;

	foreach(cell, *others)
	{
		Oid			other = lfirst_oid(cell);

		if (strcmp(get_rel_name(other), name) == 0)
		{
			*others = list_delete_oid(*others, other);
			return other;
		}
	}
	return InvalidOid;
}

/* Each index has its counterpart; lock them all. */
static void
check_indexes(Relation left, List *left_indexes, List *right_indexes)
{
	ListCell   *cell;

	foreach(cell, left_indexes)
	{
		Oid			other = take_namesake(lfirst_oid(cell), &right_indexes);
		Relation	a;
		Relation	b;

		if (!OidIsValid(other))
			refuse(left, "indexes");
		a = relation_open(lfirst_oid(cell), AccessExclusiveLock);
		b = relation_open(other, AccessExclusiveLock);
		check_index(left, a, b);
		relation_close(a, NoLock);
		relation_close(b, NoLock);
	}
	if (right_indexes != NIL)
		refuse(left, "indexes");
}

static void
swap_sequences(Relation left, Relation right)
{
	List	   *sequences = evs_swap_sequences(RelationGetRelid(right));
	ListCell   *cell;

	foreach(cell, evs_swap_sequences(RelationGetRelid(left)))
	{
		Oid			other = take_namesake(lfirst_oid(cell), &sequences);

		if (!OidIsValid(other))
			refuse(left, "sequences");
		LockRelationOid(lfirst_oid(cell), AccessExclusiveLock);
		LockRelationOid(other, AccessExclusiveLock);
		swap_files(lfirst_oid(cell), other);
	}
}

void
evs_swap_tables(Oid left, Oid right)
{
	Relation	a = table_open(left, AccessExclusiveLock);
	Relation	b = table_open(right, AccessExclusiveLock);
	List	   *left_indexes = RelationGetIndexList(a);
	List	   *right_indexes = RelationGetIndexList(b);
	AttrNumber	natts = RelationGetNumberOfAttributes(a);
	ListCell   *cell;

	CheckTableNotInUse(a, "swap");
	CheckTableNotInUse(b, "swap");
	check_storage(a, b);
	check_columns(a, b);
	check_indexes(a, left_indexes, list_copy(right_indexes));

	/* as for TRUNCATE: what serializable transactions have read is gone */
	CheckTableForSerializableConflictIn(a);

	swap_sequences(a, b);
	table_close(a, NoLock);
	table_close(b, NoLock);

	foreach(cell, left_indexes)
		swap_files(lfirst_oid(cell), take_namesake(lfirst_oid(cell), &right_indexes));
	swap_missing(left, right, natts);
	swap_files(left, right);
}
