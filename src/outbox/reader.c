/*
 * outbox/reader.c
 *		From a chunk's body back to changes.
 *
 * Trusts nothing it reads: the body's check sum is compared, every length is checked against what is left, every image against its shape, so that a
 * damaged body is an error that names the chunk and never more.  Tuples are put together in memory of the reader's that the next change uses again.
 * Wants an active snapshot if the body is stored out of line.
 */
#include "postgres.h"

#include "access/tupmacs.h"
#include "fmgr.h"
#include "outbox/parts.h"

/* Space for one image. */
typedef struct Image
{
	HeapTupleData tuple;
	char	   *space;
	Size		size;
} Image;

/* What comes before an image's bitmap and data. */
typedef struct ImageHead
{
	uint32		flags;
	uint32		natts;
	Size		prefix;			/* of its data, shared with the old image */
	Size		suffix;
	Size		length;			/* of the data between them */
	Size		bitmap;
} ImageHead;

struct CqrsChangeReader
{
	int64		number;			/* of the chunk */
	int32		changes;		/* it says it holds */
	int32		read;			/* so far */
	struct varlena *body;
	bool		copied;			/* the body is ours to free */
	bool		no_images;		/* what changes hold is passed over */
	const char *at;				/* what is left of it */
	const char *end;
	MemoryContext memory;		/* of the images' space */
	Image		old_image;
	Image		new_image;
};

/*
 * damaged raises for a body that cannot have been written by us.
 */
static void
damaged(const CqrsChangeReader *reader, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("outbox chunk %lld is damaged", (long long) reader->number),
			 errdetail("At change %d of %d: %s.", reader->read + 1, reader->changes, what),
			 errhint("Projections that have not applied it need to be filled anew.")));
}

/*
 * name_chunk tells an error from below which chunk was being read.
 */
static void
name_chunk(void *arg)
{
	errcontext("outbox chunk %lld", (long long) ((const CqrsChangeReader *) arg)->number);
}

/*
 * read_varint takes a number from what is left up to 'end'.
 */
static uint32
read_varint(CqrsChangeReader *reader, const char *end)
{
	uint32		value = 0;

	for (int shift = 0; shift < 32; shift += 7)
	{
		uint8		byte;

		if (reader->at >= end)
			damaged(reader, "it ends within a number");
		byte = (uint8) *reader->at++;
		value |= (uint32) (byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return value;
	}
	damaged(reader, "a number is too long");
	return 0;
}

/*
 * read_bytes takes 'length' bytes from what is left up to 'end'.
 */
static const char *
read_bytes(CqrsChangeReader *reader, Size length, const char *end)
{
	const char *bytes = reader->at;

	if (length > end - reader->at)
		damaged(reader, "a length exceeds what is left");
	reader->at += length;
	return bytes;
}

/*
 * value_size returns the bytes a value takes, or more than 'left' if it does not fit.  Out-of-line pointers do not occur in images.
 */
static Size
value_size(Form_pg_attribute att, const char *value, Size left)
{
	if (att->attlen > 0)
		return att->attlen;
	if (left == 0)
		return 1;
	if (att->attlen == -2)
		return strnlen(value, left) + 1;
	if (VARATT_IS_1B_E(value))
		return left + 1;
	if (VARATT_IS_1B(value))
		return VARSIZE_1B(value);
	if (left < VARHDRSZ || VARSIZE_4B(value) < VARHDRSZ)
		return left + 1;
	return VARSIZE_4B(value);
}

/*
 * check_values walks over the values of an image as deforming will, and raises if one does not fit into it.
 */
static void
check_values(const CqrsChangeReader *reader, HeapTuple tuple, TupleDesc desc)
{
	HeapTupleHeader header = tuple->t_data;
	const char *data = (char *) header + header->t_hoff;
	Size		length = tuple->t_len - header->t_hoff;
	Size		offset = 0;

	for (int i = 0; i < HeapTupleHeaderGetNatts(header); i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Size		size;

		if (HeapTupleHasNulls(tuple) && att_isnull(i, header->t_bits))
			continue;
		if (att->attlen != -1)
			offset = att_align_nominal(offset, att->attalign);
		else if (offset < length)
			offset = att_align_pointer(offset, att->attalign, -1, data + offset);
		size = offset > length ? 1 : value_size(att, data + offset, length - offset);
		if (offset > length || size > length - offset)
			damaged(reader, psprintf("column \"%s\" does not fit into its row", NameStr(att->attname)));
		offset += size;
	}
}

/*
 * make_space returns zeroed space for a tuple with that header and data; used again by the next image.
 */
static HeapTupleHeader
make_space(const CqrsChangeReader *reader, Image *image, Size header, Size data)
{
	if (image->size < header + data)
	{
		if (image->space)
			pfree(image->space);
		image->size = Max(header + data, 1024);
		image->space = MemoryContextAlloc(reader->memory, image->size);
	}
	memset(image->space, 0, header);
	image->tuple.t_data = (HeapTupleHeader) image->space;
	image->tuple.t_len = header + data;
	ItemPointerSetInvalid(&image->tuple.t_self);
	image->tuple.t_tableOid = InvalidOid;
	return image->tuple.t_data;
}

/*
 * read_data puts an image's data together: what comes next, between what it shares with the old image.
 */
static void
read_data(CqrsChangeReader *reader, const ImageHead *head, char *to, HeapTuple old_tuple, const char *end)
{
	if (old_tuple != NULL)
	{
		memcpy(to, (char *) old_tuple->t_data + old_tuple->t_data->t_hoff, head->prefix);
		memcpy(to + head->prefix + head->length, (char *) old_tuple->t_data + old_tuple->t_len - head->suffix, head->suffix);
	}
	memcpy(to + head->prefix, read_bytes(reader, head->length, end), head->length);
}

/*
 * read_head reads what comes before an image's bitmap and data, and checks it.
 */
static void
read_head(CqrsChangeReader *reader, ImageHead *head, TupleDesc desc, HeapTuple old_tuple, const char *end)
{
	uint32		first = read_varint(reader, end);

	head->flags = first & ((1 << CQRS_IMAGE_SHIFT) - 1);
	head->natts = first >> CQRS_IMAGE_SHIFT;
	head->prefix = head->flags & CQRS_IMAGE_SHARES ? read_varint(reader, end) : 0;
	head->suffix = head->flags & CQRS_IMAGE_SHARES ? read_varint(reader, end) : 0;
	head->length = read_varint(reader, end);
	head->bitmap = head->flags & CQRS_IMAGE_NULLS ? BITMAPLEN(head->natts) : 0;
	if (head->natts > desc->natts)
		damaged(reader, "a row has more columns than its shape");
	if (head->bitmap + head->length > end - reader->at)
		damaged(reader, "a length exceeds what is left");
	if (head->prefix + head->suffix > (old_tuple ? old_tuple->t_len - old_tuple->t_data->t_hoff : 0))
		damaged(reader, "a row shares more with its old image than that has");
}

/*
 * read_image makes a heap tuple of the image that comes next; 'old_tuple' is the old image of a new one, or NULL.
 */
static HeapTuple
read_image(CqrsChangeReader *reader, Image *image, TupleDesc desc, HeapTuple old_tuple, const char *end)
{
	ImageHead head;
	HeapTupleHeader header;

	read_head(reader, &head, desc, old_tuple, end);
	header = make_space(reader, image, MAXALIGN(SizeofHeapTupleHeader + head.bitmap),
						head.prefix + head.length + head.suffix);
	HeapTupleHeaderSetNatts(header, head.natts);
	header->t_hoff = MAXALIGN(SizeofHeapTupleHeader + head.bitmap);
	if (head.flags & CQRS_IMAGE_NULLS)
		header->t_infomask |= HEAP_HASNULL;
	if (head.flags & CQRS_IMAGE_VARWIDTH)
		header->t_infomask |= HEAP_HASVARWIDTH;
	memcpy(header->t_bits, read_bytes(reader, head.bitmap, end), head.bitmap);
	read_data(reader, &head, (char *) header + header->t_hoff, old_tuple, end);
	check_values(reader, &image->tuple, desc);
	return &image->tuple;
}

/*
 * shape_of returns a change's shape and notes its source.
 */
static const CqrsShape *
shape_of(CqrsChangeReader *reader, CqrsChange *change)
{
	ErrorContextCallback callback = {.callback = name_chunk,.arg = reader};
	const CqrsShape *shape;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	shape = cqrs_outbox_shape(change->shape);
	error_context_stack = callback.previous;
	change->source = shape->source;
	return shape;
}

/*
 * read_noted takes an update's bits of columns that are not imaged; NULL if its shape has none.
 */
static const uint8 *
read_noted(CqrsChangeReader *reader, const CqrsShape *shape, const char *end)
{
	const uint8 *noted = (const uint8 *) read_bytes(reader, CQRS_NOTED_SIZE(shape->nnoted), end);

	for (int i = shape->nnoted; i < 8 * CQRS_NOTED_SIZE(shape->nnoted); i++)
		if (cqrs_outbox_noted(noted, i))
			damaged(reader, "it tells of more columns than its shape");
	return shape->nnoted > 0 ? noted : NULL;
}

/*
 * check_kind raises for a kind that is unknown, or does not go with its shape.
 */
static void
check_kind(CqrsChangeReader *reader, const CqrsChange *change)
{
	if (change->kind < CQRS_CHANGE_INSERT || change->kind > CQRS_CHANGE_EVENT)
		damaged(reader, "its kind is unknown");
	if (change->kind != CQRS_CHANGE_ERASED &&
		(change->kind == CQRS_CHANGE_EVENT) != (change->shape == CQRS_EVENT_SHAPE))
		damaged(reader, "its kind does not go with its shape");
}

/*
 * check_body raises unless the body is as it was written.
 */
static void
check_body(CqrsChangeReader *reader)
{
	pg_crc32c	crc;

	if (*read_bytes(reader, 1, reader->end) != CQRS_FORMAT)
		damaged(reader, "its format is unknown");
	memcpy(&crc, read_bytes(reader, sizeof(crc), reader->end), sizeof(crc));
	if (!EQ_CRC32C(crc, cqrs_body_crc(reader->at, reader->end - reader->at)))
		damaged(reader, "the check sum is wrong");
}

/*
 * cqrs_outbox_read_begin starts to read a chunk's changes; fetches its body if that is stored out of line.
 */
CqrsChangeReader *
cqrs_outbox_read_begin(const CqrsChunk *chunk)
{
	CqrsChangeReader *reader = palloc0(sizeof(CqrsChangeReader));

	reader->memory = CurrentMemoryContext;
	reader->number = chunk->number;
	reader->changes = chunk->changes;
	if (chunk->nsources == CQRS_SOURCES_DAMAGED)
		damaged(reader, "its list of sources is not a list of numbers");
	reader->body = pg_detoast_datum_packed(chunk->body);
	reader->copied = reader->body != chunk->body;
	reader->at = VARDATA_ANY(reader->body);
	reader->end = reader->at + VARSIZE_ANY_EXHDR(reader->body);
	check_body(reader);
	return reader;
}

/*
 * cqrs_outbox_read_no_images has the changes that follow come without images.
 */
void
cqrs_outbox_read_no_images(CqrsChangeReader *reader)
{
	reader->no_images = true;
}

/*
 * cqrs_outbox_read_next reads the next change; false after the last.
 */
bool
cqrs_outbox_read_next(CqrsChangeReader *reader, CqrsChange *change)
{
	const char *end;
	uint32		length;
	const CqrsShape *shape;

	if (reader->at == reader->end)
	{
		if (reader->read != reader->changes)
			damaged(reader, "the body ends before it, or should have");
		return false;
	}
	length = read_varint(reader, reader->end);
	if (length > reader->end - reader->at)
		damaged(reader, "a length exceeds what is left");
	end = reader->at + length;
	change->kind = (CqrsChangeKind) *read_bytes(reader, 1, end);
	change->shape = (int32) read_varint(reader, end);
	check_kind(reader, change);
	change->command = read_varint(reader, end);
	change->position = (reader->number << CQRS_POSITION_BITS) + reader->read;
	shape = shape_of(reader, change);
	if (reader->no_images)
	{
		change->noted = NULL;
		change->old_tuple = change->new_tuple = NULL;
		reader->at = end;
		reader->read++;
		return true;
	}
	change->noted = change->kind == CQRS_CHANGE_UPDATE ? read_noted(reader, shape, end) : NULL;
	change->old_tuple = change->kind == CQRS_CHANGE_UPDATE || change->kind == CQRS_CHANGE_DELETE ?
		read_image(reader, &reader->old_image, shape->desc, NULL, end) : NULL;
	change->new_tuple = change->kind == CQRS_CHANGE_INSERT || change->kind == CQRS_CHANGE_UPDATE ||
		change->kind == CQRS_CHANGE_EVENT ?
		read_image(reader, &reader->new_image, shape->desc, change->old_tuple, end) : NULL;
	if (reader->at != end)
		damaged(reader, "it is longer than its images");
	reader->read++;
	return true;
}

/*
 * cqrs_outbox_read_end frees the reader.
 */
void
cqrs_outbox_read_end(CqrsChangeReader *reader)
{
	if (reader->copied)
		pfree(reader->body);
	if (reader->old_image.space)
		pfree(reader->old_image.space);
	if (reader->new_image.space)
		pfree(reader->new_image.space);
	pfree(reader);
}
