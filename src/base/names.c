/*
 * base/names.c
 *		Quoting of identifiers, relations and literals.
 *
 * Reads the system caches, so it wants a transaction; what it returns is palloc'd in CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/compat.h"
#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/*
 * cqrs_name_relation names a relation in full, for generated SQL.
 */
char *
cqrs_name_relation(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		elog(ERROR, "cache lookup failed for relation %u", relid);
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

/*
 * cqrs_name_qualified names in full what is about to be created.
 */
char *
cqrs_name_qualified(const char *schema, const char *name)
{
	return quote_qualified_identifier(schema, name);
}

/*
 * cqrs_name_operator names an operator in a form that no search_path changes.
 */
char *
cqrs_name_operator(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * cqrs_name_identifier quotes one identifier where it needs it.
 */
const char *
cqrs_name_identifier(const char *name)
{
	return quote_identifier(name);
}

/*
 * cqrs_name_literal quotes a string constant.
 */
char *
cqrs_name_literal(const char *value)
{
	return quote_literal_cstr(value);
}

/*
 * cqrs_name_shown names a relation for people, as regclass prints it: qualified only where search_path does not find it.
 */
char *
cqrs_name_shown(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		return psprintf("%u", relid);
	return quote_qualified_identifier(RelationIsVisible(relid) ? NULL : get_namespace_name(get_rel_namespace(relid)),
									  name);
}

/*
 * cqrs_name_parse reads a possibly qualified identifier that a user wrote, as the server reads one.
 *
 * Errors: 42602, by the server.
 */
List *
cqrs_name_parse(const char *text)
{
	return cqrs_compat_qualified_name(text);
}
