"""Distillation: a teacher's RecCoTs, and SFT of G on them."""

from trackrec.distill.teacher import ProfileTeacher, TableTeacher, Teacher, TeacherRequest

__all__ = ["ProfileTeacher", "TableTeacher", "Teacher", "TeacherRequest"]
