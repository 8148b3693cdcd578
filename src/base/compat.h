/*
 * base/compat.h
 *		The one place that knows server versions apart.
 *
 * PostgreSQL 15 is the platform; what 16, 17 and 18 changed under us is named here and nowhere else.
 */
#ifndef CQRS_COMPAT_H
#define CQRS_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "cqrs needs PostgreSQL 15 or newer (NULLS NOT DISTINCT, MERGE, pg_get_querydef)"
#endif

/* 17 names processes by number instead of by backend id.  A prepared transaction keeps the name of the process that prepared it. */
#if PG_VERSION_NUM < 170000
#define cqrs_compat_lock_holder(vxid) BackendIdGetProc((vxid).backendId)
#define cqrs_compat_local_xid(proc) ((proc)->lxid)
#else
#define cqrs_compat_lock_holder(vxid) ProcNumberGetProc((vxid).procNumber)
#define cqrs_compat_local_xid(proc) ((proc)->vxid.lxid)
#endif

/* 16 names what processes say of themselves by index, and not by backend id. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_backend_status(i) pgstat_fetch_stat_local_beentry(i)
#else
#define cqrs_compat_backend_status(i) pgstat_get_local_beentry_by_index(i)
#endif

/* 16 has one check of ownership, and one of rights, for all kinds of objects. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_owns_relation(relid, user) pg_class_ownercheck(relid, user)
#else
#define cqrs_compat_owns_relation(relid, user) object_ownercheck(RelationRelationId, relid, user)
#endif

#if PG_VERSION_NUM < 160000
#define cqrs_compat_owns_function(function, user) pg_proc_ownercheck(function, user)
#define cqrs_compat_owns_database(database, user) pg_database_ownercheck(database, user)
#define cqrs_compat_may_use(schema, user) (pg_namespace_aclcheck(schema, user, ACL_USAGE) == ACLCHECK_OK)
#define cqrs_compat_may_execute(function, user) (pg_proc_aclcheck(function, user, ACL_EXECUTE) == ACLCHECK_OK)
#define cqrs_compat_may_create(database, user) (pg_database_aclcheck(database, user, ACL_CREATE) == ACLCHECK_OK)
#else
#define cqrs_compat_owns_function(function, user) object_ownercheck(ProcedureRelationId, function, user)
#define cqrs_compat_owns_database(database, user) object_ownercheck(DatabaseRelationId, database, user)
#define cqrs_compat_may_use(schema, user) (object_aclcheck(NamespaceRelationId, schema, user, ACL_USAGE) == ACLCHECK_OK)
#define cqrs_compat_may_execute(function, user) \
	(object_aclcheck(ProcedureRelationId, function, user, ACL_EXECUTE) == ACLCHECK_OK)
#define cqrs_compat_may_create(database, user) \
	(object_aclcheck(DatabaseRelationId, database, user, ACL_CREATE) == ACLCHECK_OK)
#endif

/* 16 can tell partitions' clones of a trigger apart; none of ours is one. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_enable_trigger(rel, name, when, lockmode) EnableDisableTrigger(rel, name, when, false, lockmode)
#else
#define cqrs_compat_enable_trigger(rel, name, when, lockmode) \
	EnableDisableTrigger(rel, name, InvalidOid, when, false, false, lockmode)
#endif

/* 16 calls a relation's file a locator. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_log_sequence(record, rel) ((record).node = (rel)->rd_node)
#define cqrs_compat_read_recent(rel, block, buffer) ReadRecentBuffer((rel)->rd_node, MAIN_FORKNUM, block, buffer)
#else
#define cqrs_compat_log_sequence(record, rel) ((record).locator = (rel)->rd_locator)
#define cqrs_compat_read_recent(rel, block, buffer) ReadRecentBuffer((rel)->rd_locator, MAIN_FORKNUM, block, buffer)
#endif

/* 16 has indexes that summarize, 18 ones without overlaps.  Of one column, not unique, ready for inserts. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_index_info() makeIndexInfo(1, 1, BTREE_AM_OID, NIL, NIL, false, false, true, false)
#elif PG_VERSION_NUM < 180000
#define cqrs_compat_index_info() makeIndexInfo(1, 1, BTREE_AM_OID, NIL, NIL, false, false, true, false, false)
#else
#define cqrs_compat_index_info() makeIndexInfo(1, 1, BTREE_AM_OID, NIL, NIL, false, false, true, false, false, false)
#endif

/* 17 has statistics targets and operator class options beside the columns of a new index. */
#if PG_VERSION_NUM < 170000
#define cqrs_compat_index_create(heap, name, info, columns, collations, classes, options, storage, flags) \
	index_create(heap, name, InvalidOid, InvalidOid, InvalidOid, InvalidOid, info, columns, BTREE_AM_OID, InvalidOid, \
				 collations, classes, options, storage, flags, 0, false, true, NULL)
#else
#define cqrs_compat_index_create(heap, name, info, columns, collations, classes, options, storage, flags) \
	index_create(heap, name, InvalidOid, InvalidOid, InvalidOid, InvalidOid, info, columns, BTREE_AM_OID, InvalidOid, \
				 collations, classes, NULL, options, NULL, storage, flags, 0, false, true, NULL)
#endif

/* 16 does not tell by its kind whether what drops a column does so in the tables below, too. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_drops_column(subtype) ((subtype) == AT_DropColumn || (subtype) == AT_DropColumnRecurse)
#else
#define cqrs_compat_drops_column(subtype) ((subtype) == AT_DropColumn)
#endif

/* 16 can truncate under the identity of the table's owner. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_truncate(rel) \
	ExecuteTruncateGuts(list_make1(rel), list_make1_oid(RelationGetRelid(rel)), NIL, DROP_RESTRICT, false)
#else
#define cqrs_compat_truncate(rel) \
	ExecuteTruncateGuts(list_make1(rel), list_make1_oid(RelationGetRelid(rel)), NIL, DROP_RESTRICT, false, false)
#endif

/* 16 tells which indexes an update of a row concerns, and not just whether any. */
#if PG_VERSION_NUM < 160000
#define CqrsUpdateIndexes bool
#define cqrs_compat_heap_update(rel, tid, tuple) simple_heap_update(rel, tid, tuple)
#else
#define CqrsUpdateIndexes TU_UpdateIndexes
#define cqrs_compat_heap_update(rel, tid, tuple) simple_heap_update(rel, tid, tuple, &(TU_UpdateIndexes) {0})
#endif

/* 16 keeps beside a query's entries what the parser noted for the check of privileges. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_columns_read(query, entry) ((entry)->selectedCols)
#define cqrs_compat_reader(query, entry) ((entry)->checkAsUser)
#else
#define cqrs_compat_columns_read(query, entry) \
	(getRTEPermissionInfo((query)->rteperminfos, (RangeTblEntry *) (entry))->selectedCols)
#define cqrs_compat_reader(query, entry) (getRTEPermissionInfo((query)->rteperminfos, (RangeTblEntry *) (entry))->checkAsUser)
#endif

/* 16 wants a planner's state, which nobody has who only reads a tree, and a place for errors that are not raised. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_flatten_joins(query, node) flatten_join_alias_vars(query, node)
#define cqrs_compat_qualified_name(text) stringToQualifiedNameList(text)
#else
#define cqrs_compat_flatten_joins(query, node) flatten_join_alias_vars(NULL, query, node)
#define cqrs_compat_qualified_name(text) stringToQualifiedNameList(text, NULL)
#endif

/* 18 keeps a short form of each column in a description of rows, which is to be made when the column is. */
#if PG_VERSION_NUM < 180000
#define cqrs_compat_column_made(desc, i) (TupleDescAttr(desc, i)->attcacheoff = -1)
#else
#define cqrs_compat_column_made(desc, i) populate_compact_attribute(desc, i)
#endif

/* 18 lets one ask for primary keys that are deferrable, too, and for columns of what a command returns. */
#if PG_VERSION_NUM < 180000
#define cqrs_compat_primary_key(rel) RelationGetPrimaryKeyIndex(rel)
#define cqrs_compat_replace_columns(node, relation, entry, columns) \
	ReplaceVarsFromTargetList(node, relation, 0, entry, columns, REPLACEVARS_REPORT_ERROR, 0, NULL)
#else
#define cqrs_compat_primary_key(rel) RelationGetPrimaryKeyIndex(rel, false)
#define cqrs_compat_replace_columns(node, relation, entry, columns) \
	ReplaceVarsFromTargetList(node, relation, 0, entry, columns, 0, REPLACEVARS_REPORT_ERROR, 0, NULL)
#endif

/* 18 has scans say what they did. */
#if PG_VERSION_NUM < 180000
#define cqrs_compat_index_beginscan(heap, index, snapshot, keys) index_beginscan(heap, index, snapshot, keys, 0)
#else
#define cqrs_compat_index_beginscan(heap, index, snapshot, keys) index_beginscan(heap, index, snapshot, NULL, keys, 0)
#endif

/* 18 has C11's word for functions that do not return, which stands before them. */
#if PG_VERSION_NUM < 180000
#define CQRS_COMPAT_NORETURN __attribute__((noreturn))
#else
#define CQRS_COMPAT_NORETURN pg_noreturn
#endif

/* 16 tells apart who may be somebody, and who has his rights. */
#if PG_VERSION_NUM < 160000
#define cqrs_compat_check_role(member, role) check_is_member_of_role(member, role)
#else
#define cqrs_compat_check_role(member, role) check_can_set_role(member, role)
#endif

#endif							/* CQRS_COMPAT_H */
