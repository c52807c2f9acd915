"""Distillation: a teacher's RecCoTs, and SFT of G on them."""

from trackrec.distill.local_teacher import LocalTeacher
from trackrec.distill.openai_teacher import OpenAITeacher
from trackrec.distill.teacher import ProfileTeacher, TableTeacher, Teacher, TeacherRequest

__all__ = ["LocalTeacher", "OpenAITeacher", "ProfileTeacher", "TableTeacher", "Teacher", "TeacherRequest"]
