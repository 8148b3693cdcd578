/*
 * plan/parse.c
 *		From the text of a query to one SELECT: what is refused before there is a view.
 *
 * Errors, the server's own too, point into the user's text.  Analysis takes ACCESS SHARE on what the text names, to the end of the transaction.  Memory is
 * CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/position.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "plan/query.h"
#include "tcop/tcopprot.h"
#include "utils/elog.h"

/*
 * refuse_statement raises for a text that is not one SELECT.
 */
static void
refuse_statement(const CqrsCheck *check, const char *what, int location)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("the query of a projection must be one SELECT"),
			 errdetail("The text holds %s.", what),
			 errhint("Give the SELECT whose rows the read model is to hold."),
			 cqrs_check_position(check, location)));
}

/*
 * leftmost returns the first SELECT of a set operation, which carries INTO.
 */
static SelectStmt *
leftmost(SelectStmt *statement)
{
	while (statement->larg != NULL)
		statement = statement->larg;
	return statement;
}

/*
 * only_select returns the statement in the text, which must be one SELECT.
 */
static RawStmt *
only_select(const char *text)
{
	CqrsCheck	check = {.text = text};
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	RawStmt    *raw;
	SelectStmt *first;

	if (statements == NIL)
		refuse_statement(&check, "no statement", -1);
	if (list_length(statements) > 1)
		refuse_statement(&check, "more than one statement", lsecond_node(RawStmt, statements)->stmt_location);
	raw = linitial_node(RawStmt, statements);
	if (!IsA(raw->stmt, SelectStmt))
		refuse_statement(&check, "another kind of statement", raw->stmt_location);
	first = leftmost((SelectStmt *) raw->stmt);
	if (first->intoClause != NULL)
		refuse_statement(&check, "SELECT INTO", first->intoClause->rel->location);
	return raw;
}

/*
 * cqrs_parse_analyze reads and analyzes the text.
 */
Query *
cqrs_parse_analyze(const char *text, RawStmt **raw)
{
	ErrorContextCallback context = {.previous = error_context_stack, .callback = cqrs_position_move, .arg = (void *) text};
	Query	   *tree;

	error_context_stack = &context;
	*raw = only_select(text);
	tree = parse_analyze_fixedparams(copyObject(*raw), text, NULL, 0, NULL);
	error_context_stack = context.previous;
	return tree;
}

/*
 * cqrs_plan_parse returns the one SELECT in the text, once it holds nothing that is refused.
 */
RawStmt *
cqrs_plan_parse(const char *text)
{
	CqrsCheck	check = {.text = text, .owner = GetUserId()};
	Query	   *tree = cqrs_parse_analyze(text, &check.raw);

	cqrs_check_query(&check, tree, InvalidOid);
	return check.raw;
}
